"""Ports for servers that are about to start."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of this machine's address ``host`` that nobody listens on, and that nobody else is given soon.

    A connection to the port has been closed by its listening end. For a minute the kernel remembers it, and gives the
    port only to those who ask for this very number and reuse addresses, as servers do.

    :raises OSError: ``host`` is no address of this machine.
    """
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port: int = listener.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            listener.accept()[0].close()
            client.recv(1)
    return port
