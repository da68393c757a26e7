from __future__ import annotations

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.client import Client
from attestream.embedded.nats import NatsServer


@pytest.fixture
async def server(tmp_path):
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(server):
    bus = await connect(BusSettings(urls=[server.url]))
    await ensure_topology(bus)
    yield bus
    await bus.close()


@pytest.fixture
async def guest(server, bus, tmp_path):
    """A client that has no consumers, as everybody who is no service."""
    connection = await connect(BusSettings(urls=[server.url]))
    connection.guest = True
    client = Client(connection)
    client.places = tmp_path / "places"
    yield client
    await client.close()
