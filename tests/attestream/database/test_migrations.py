"""The services' own migrations: begun by many processes at once, and taken up after they were cut off."""

import asyncio
import multiprocessing
import textwrap

import pytest
import sqlalchemy as sa

from attestream.database import migrate, open_engine, reading
from attestream.errors import AttestreamError
from services.registrar.tables import MIGRATIONS as REGISTRAR
from services.verifier.store import Store

VERIFIER = "services.verifier.migrations"
PROCESSES = 8

CUT_OFF = """
    import sqlalchemy as sa
    from attestream.database import steps

    revision = "1"
    down_revision = None

    def upgrade():
        steps.create_table("things", sa.Column("id", sa.String(80), primary_key=True), sa.Column("data", steps.BYTES))
        steps.create_index("things_id", "things", ["id"])
        steps.add_bytes("things", "more")
"""


def migrate_all(url, barrier):
    """What a process does."""

    async def run():
        engine = open_engine(url)
        await asyncio.to_thread(barrier.wait, 60)
        await migrate(engine, VERIFIER)
        await migrate(engine, REGISTRAR)
        await engine.dispose()

    asyncio.run(run())


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have the modules loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attestream.database", "sqlalchemy.ext.asyncio", "aiomysql", "psycopg"])
    return context


async def test_processes_that_start_at_once_on_an_empty_database(database_url, processes):
    barrier = processes.Barrier(PROCESSES)
    started = [processes.Process(target=migrate_all, args=(database_url, barrier)) for _ in range(PROCESSES)]
    for process in started:
        process.start()
    for process in started:
        await asyncio.to_thread(process.join, 90)
    assert [process.exitcode for process in started] == [0] * PROCESSES
    engine = open_engine(database_url)
    assert (await Store(engine).partition(1)).rows == []
    async with reading(engine) as connection:
        for service in ("registrar", "verifier"):
            assert len((await connection.execute(sa.text(f"SELECT * FROM {service}_version"))).all()) == 1
    await engine.dispose()


async def test_a_migration_that_was_cut_off_is_taken_up(database_url, tmp_path, monkeypatch):
    """MariaDB and MySQL commit each step by itself: it must not be in the way of its own repetition."""
    name = f"cut_off_{tmp_path.name.replace('-', '_')}"
    versions = tmp_path / "packages" / name / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parent / "env.py").write_text("from attestream.database import run_migrations\n\nrun_migrations()\n")
    step = versions / "one.py"
    whole = textwrap.dedent(CUT_OFF)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    engine = open_engine(database_url)
    for _ in range(2):
        # Its end is what no database takes.
        step.write_text(whole + "    steps.op.execute('nonsense')\n")
        with pytest.raises(AttestreamError):
            await migrate(engine, f"{name}.migrations")
    step.write_text(whole)
    await migrate(engine, f"{name}.migrations")
    async with reading(engine) as connection:
        columns = await connection.run_sync(
            lambda sync: [column["name"] for column in sa.inspect(sync).get_columns("things")]
        )
        assert columns == ["id", "data", "more"]
        assert (await connection.execute(sa.text("SELECT COUNT(*) FROM things"))).scalar_one() == 0
    await engine.dispose()
