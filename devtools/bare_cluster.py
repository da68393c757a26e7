"""Three bare nats-servers that form a cluster, without credentials: for tests of what only replicated streams show."""

from __future__ import annotations

import asyncio
from pathlib import Path

from attestream.bus.connection import Bus
from attestream.bus.topology import ensure_topology
from attestream.embedded.nats import NatsServer
from attestream.embedded.ports import free_port
from attestream.errors import BusError

_SERVERS = 3
_ELECTED_S = 30


def bare_cluster(directory: Path) -> list[NatsServer]:
    """Return three servers with their stores in ``directory``; start all."""
    ports = [free_port() for _ in range(_SERVERS)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return [
        NatsServer(
            directory / str(number),
            name=f"n{number}",
            extra=f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for number, port in enumerate(ports)
    ]


async def replicated(bus: Bus) -> None:
    """Make all streams, on three servers each, as soon as these have elected who makes streams."""
    async with asyncio.timeout(_ELECTED_S):
        while True:
            try:
                await ensure_topology(bus, replicas=_SERVERS)
                return
            except BusError:
                await asyncio.sleep(0.2)
