"""Fixtures of a secure installation and of its bus: a plugin of the root ``conftest.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from attestream.bus.connection import Bus
from attestream.bus.topology import ensure_topology
from attestream.credentials.document import Credentials
from attestream.embedded.nats import NatsServer
from attestream.installation.places import Installation
from devtools.bus_identities import connect_with
from devtools.secure_bus import secure_installation, secure_server
from schemas.roles import Role


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """An installation with keys and identities of this test alone."""
    return secure_installation(tmp_path / "installation")


@pytest.fixture
def secured(installation: Installation) -> Iterator[NatsServer]:
    """The bus of ``installation``, started: nobody gets in without an identity."""
    server = secure_server(installation)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def connected(
    installation: Installation, secured: NatsServer
) -> AsyncIterator[Callable[[Role | Credentials], Awaitable[Bus]]]:
    """Connects with the identity of a role, or with credentials, to a bus that has its streams."""
    made: list[Bus] = []

    async def run(who: Role | Credentials) -> Bus:
        made.append(await connect_with(secured.url, installation.credentials(who) if isinstance(who, Role) else who))
        return made[-1]

    await ensure_topology(await run(Role.PROVISIONER))
    yield run
    for bus in made:
        await bus.close()
