"""Running the stack on one machine: the bus as a child process, and (``supervisor``) the services."""
