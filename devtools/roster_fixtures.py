"""Fixtures of a signed bus: the keys of a roster that is published, and connections as their holders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.embedded.nats import NatsServer
from devtools.roster_keys import RosterKeys


@pytest.fixture
async def keys(bus: Bus, tmp_path: Path) -> RosterKeys:
    """Keys whose roster is on ``bus``."""
    made = RosterKeys(tmp_path / "keys")
    await made.publish(bus)
    return made


@pytest.fixture
async def as_holder(nats_server: NatsServer, keys: RosterKeys) -> AsyncIterator[Callable[[str], Awaitable[Bus]]]:
    """Connect as a holder of the roster's keys."""
    made: list[Bus] = []

    async def enter(name: str) -> Bus:
        one = await connect(BusSettings(urls=[nats_server.url], name=name))
        made.append(one)
        await keys.trust(name).start(one)
        return one

    yield enter
    for each in made:
        await each.close()
