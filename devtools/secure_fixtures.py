"""Fixtures of a secure installation and of its bus: a plugin of the root ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attestream.embedded.nats import NatsServer
from attestream.installation.places import Installation
from devtools.secure_bus import secure_installation, secure_server


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
