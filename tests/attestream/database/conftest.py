"""Servers that a test may stop, and tables to write to."""

import pytest

from attestream.database import open_engine, reading
from devtools.mariadb import MariaDb
from devtools.postgres import Postgres

SERVERS = {"postgresql": Postgres, "mariadb": MariaDb}


@pytest.fixture(scope="module", params=list(SERVERS))
def mortal_server(request):
    """A server of this module's tests alone: each leaves it running."""
    server = SERVERS[request.param]()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def open_one():
    """Opens engines that are disposed of at the end."""
    engines = []

    def run(url, **settings):
        engines.append(open_engine(url, **settings))
        return engines[-1]

    yield run
    for engine in engines:
        await engine.dispose()


@pytest.fixture
def numbers():
    """Returns what a table ``numbers`` holds."""

    async def read(engine, table):
        async with reading(engine) as connection:
            return set((await connection.execute(table.select())).scalars())

    return read
