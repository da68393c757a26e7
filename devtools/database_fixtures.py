"""Fixtures for tests that need a database: imported by the root ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.mariadb import MariaDb
from devtools.postgres import Postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A private PostgreSQL server, one for the whole run. Without an installed PostgreSQL the test fails and says so."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDb]:
    """A private MariaDB server, one for the whole run. Without an installed MariaDB the test fails and says so."""
    server = MariaDb()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """URL of an empty PostgreSQL database."""
    return postgres_server.new_database()


@pytest.fixture
def mariadb_url(mariadb_server: MariaDb) -> str:
    """URL of an empty MariaDB database."""
    return mariadb_server.new_database()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database: the test runs once with each kind."""
    match request.param:
        case "postgresql":
            return str(request.getfixturevalue("postgres_url"))
        case "mariadb":
            return str(request.getfixturevalue("mariadb_url"))
    return f"sqlite:///{tmp_path / 'test.db'}"
