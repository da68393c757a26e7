"""What tests of every part share: a private bus, and databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.embedded.nats import NatsServer

pytest_plugins = ["devtools.alone", "devtools.database_fixtures", "devtools.roster_fixtures", "devtools.secure_fixtures"]


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A real nats-server with JetStream of this test alone. ``kill()`` and ``start()`` keep its port and its streams."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    # Its store goes with the test: an orderly end, a second or more with many consumers, would be for nothing.
    server.kill()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to ``nats_server`` with all streams and buckets in place."""
    connection = await connect(BusSettings(urls=[nats_server.url], name="test", reconnect_spread_s=0.1))
    await ensure_topology(connection)
    yield connection
    await connection.close()
