"""The demonstration: an installation on one machine, while a TPM is enrolled, attested, tampered with and revoked.

Everything in it is real but the machines: nats-server, services and agents are processes, each machine has a swtpm and an
IMA emulator. A step counts only when its effect was seen over the bus, through the SDK or at an agent's revocation hook.
"""
