"""Servers that die, hang and come back, and clients that do: what was acknowledged is there, and all is told once."""

import asyncio
import contextlib
import logging
import subprocess
import sys

import pytest
import sqlalchemy as sa

from attestream.database import mysql, open_engine, postgresql, reading, sqlite, transaction, transactions
from attestream.database.statements import insert_missing
from attestream.errors import StorageError
from devtools.pool import eventually

NUMBERS = sa.Table("numbers", sa.MetaData(), sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False))
SLEEP = {"postgresql": "SELECT pg_sleep(60)", "mysql": "SELECT SLEEP(60)"}


async def create(engine):
    async with transaction(engine) as connection:
        await connection.run_sync(NUMBERS.create)


async def insert(engine, n):
    async with transaction(engine) as connection:
        await connection.execute(insert_missing(engine.dialect.name, NUMBERS, {"n": n}, key="n"))


async def write(engine, first, acknowledged, failed):
    """Write numbers for ever, each until it is acknowledged."""
    n = first
    while True:
        try:
            await insert(engine, n)
        except StorageError:
            failed.append(n)
            await asyncio.sleep(0.02)
            continue
        acknowledged.append(n)
        n += 1


@contextlib.asynccontextmanager
async def writers(engine):
    """Four writers at work; gives the lists of what was acknowledged and of what was not, so far."""
    acknowledged, failed = [], []
    tasks = [asyncio.create_task(write(engine, 1_000_000 * each, acknowledged, failed)) for each in range(4)]
    try:
        yield acknowledged, failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def told(caplog, words):
    return [record for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_nothing_acknowledged_is_lost_when_the_server_is_restarted_under_load(
    mortal_server, open_one, numbers, caplog, how
):
    engine = open_one(mortal_server.new_database())
    await create(engine)
    async with writers(engine) as (acknowledged, failed):
        await eventually(lambda: len(acknowledged) > 50, 30)
        with caplog.at_level(logging.WARNING, "attestream.database"):
            await asyncio.to_thread(getattr(mortal_server, how))
            await eventually(lambda: len(failed) > 50, 60)
            await asyncio.to_thread(mortal_server.start)
            before = len(acknowledged)
            await eventually(lambda: len(acknowledged) > before + 50, 60)
    assert set(acknowledged) <= await numbers(engine, NUMBERS)
    assert len(told(caplog, "the database answers again")) == len(told(caplog, "this is said once"))
    # A server that is being stopped may refuse one and still serve another: that is more than one outage.
    assert 1 <= len(told(caplog, "this is said once")) <= len(failed) // 5


async def test_the_first_transaction_after_a_restart_succeeds(mortal_server, open_one):
    engine = open_one(mortal_server.new_database(), connections=3)
    await create(engine)
    await asyncio.gather(*(insert(engine, n) for n in range(9)))
    mortal_server.stop()
    mortal_server.start()
    for n in range(10, 20):
        await insert(engine, n)


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(mortal_server, open_one):
    engine = open_one(mortal_server.new_database(), timeout_s=1)
    async with asyncio.timeout(30):
        with pytest.raises(StorageError):
            async with reading(engine) as connection:
                await connection.execute(sa.text(SLEEP[engine.dialect.name]))
    async with reading(engine) as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1


async def test_a_client_that_stops_inside_a_transaction_loses_its_locks(mortal_server, open_one):
    url = mortal_server.new_database()
    stopped, alive = open_one(url, timeout_s=1), open_one(url)
    await create(alive)
    await insert(alive, 1)
    change = sa.update(NUMBERS).where(NUMBERS.c.n == 1).values(n=2)
    connection = await stopped.connect()
    await connection.execute(change)
    async with asyncio.timeout(25), transaction(alive) as other:
        assert (await other.execute(change)).rowcount == 1
    with pytest.raises(sa.exc.DBAPIError):
        await connection.commit()
    await connection.invalidate()
    await connection.close()


@pytest.fixture
def impatient(monkeypatch):
    """Databases that hang are given up sooner."""
    monkeypatch.setattr(transactions, "GRACE_S", 0.2)
    for driver in (mysql, postgresql):
        monkeypatch.setattr(driver, "ROLLBACK_S", 0.2)
        monkeypatch.setattr(driver, "POOL_TIMEOUT_S", 0.5)


@pytest.fixture
def frozen(mortal_server):
    """Stalls the server when it is called, until the test ends."""
    yield mortal_server.freeze
    mortal_server.thaw()


async def frozen_inside(begin, engine, freeze, then=None):
    """Have the server hang inside a transaction, which then ends, or runs one more statement, or raises."""
    async with begin(engine) as connection:
        await connection.execute(sa.text("SELECT 1"))
        freeze()
        if isinstance(then, Exception):
            raise then
        if then is not None:
            await connection.execute(then)


async def test_nobody_waits_for_ever_to_give_a_connection_back_to_a_server_that_hangs(
    mortal_server, open_one, frozen, impatient
):
    """Else whoever has read or written is never done, and its connection is lost to the others."""
    engine = open_one(mortal_server.new_database(), connections=1)
    async with asyncio.timeout(30):
        for begin, then in ((reading, None), (transaction, ValueError("this is no error of the database"))):
            with pytest.raises((StorageError, ValueError)):
                await frozen_inside(begin, engine, frozen, then)
            assert engine.pool.checkedout() == 0
            mortal_server.thaw()
            await create(engine) if begin is reading else await insert(engine, 1)


@pytest.mark.parametrize("mortal_server", ["mariadb"], indirect=True)
async def test_whatever_is_asked_of_a_server_that_hangs_is_given_up(mortal_server, open_one, frozen, impatient):
    """The driver has no limits of its own. That for PostgreSQL has, of 5 s each, which a test can not shorten."""
    url = mortal_server.new_database()
    used, new = (open_one(url, connections=1, timeout_s=0.4) for _ in range(2))
    await create(used)
    frozen()
    async with asyncio.timeout(30):
        for engine in (used, new):
            with pytest.raises(StorageError, match="does not answer"):
                await insert(engine, 1)
            assert engine.pool.checkedout() == 0
        # Large: more than the socket takes while nobody reads.
        for then in (None, sa.select(sa.literal("x" * 4_000_000))):
            mortal_server.thaw()
            with pytest.raises(StorageError, match="does not answer"):
                await frozen_inside(transaction, used, frozen, then)
            assert used.pool.checkedout() == 0
        mortal_server.thaw()
        await insert(used, 1)


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO numbers VALUES (1)")
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_writer_that_hangs_keeps_a_sqlite_file_from_writers_who_are_told_why(
    tmp_path, open_one, numbers, monkeypatch, caplog
):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 200)
    engine = open_one(f"sqlite:///{tmp_path / 'a.db'}")
    await create(engine)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "a.db")]
    holder = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        for _ in range(3):
            with pytest.raises(StorageError, match="locked by another process") as raised:
                await insert(engine, 2)
        assert "stopped" in raised.value.hint
        assert await numbers(engine, NUMBERS) == set()
        assert len(told(caplog, "locked by another process")) == 1
    finally:
        holder.kill()
        holder.communicate()
    await insert(engine, 3)
    assert await numbers(engine, NUMBERS) == {3}
    assert len(told(caplog, "after")) == 1


async def test_a_database_that_is_full_is_told_of_and_goes_on_once_there_is_space(tmp_path, open_one, numbers):
    engine = open_one(f"sqlite:///{tmp_path / 'a.db'}", connections=1)
    await create(engine)

    async def pages(most):
        async with reading(engine) as connection:
            await connection.execute(sa.text(f"PRAGMA max_page_count = {most}"))

    await pages(2)
    with pytest.raises(StorageError, match="no space left"):
        async with transaction(engine) as connection:
            await connection.execute(sa.insert(NUMBERS), [{"n": n} for n in range(10_000)])
    await pages(10_000)
    await insert(engine, 1)
    assert await numbers(engine, NUMBERS) == {1}


async def test_a_pool_that_is_used_up_is_told_of(tmp_path, open_one, monkeypatch):
    monkeypatch.setattr(sqlite, "POOL_TIMEOUT_S", 0.1)
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", connections=1)
    async with reading(engine):
        with pytest.raises(StorageError):
            async with reading(engine):
                pass
    await engine.dispose()
