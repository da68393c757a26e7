"""The fleet simulator: thousands of machines in one process, which live as a scenario says and know what must follow."""
