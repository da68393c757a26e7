"""Rows are written behind: changes soon and together, progress once in a while, and all of it at a planned end."""

import asyncio
from types import SimpleNamespace

import pytest

from attestream.appraisal.policy import compile_policy
from attestream.database import migrate, open_engine, transaction
from attestream.errors import StorageError
from attestream.tpm.public import parse_public
from devtools.pool import make_agent
from schemas.events import Standing
from services.verifier.attester import Attester
from services.verifier.journal import PROGRESS_MS, Journal
from services.verifier.store import ATTESTERS, Store

POLICY = compile_policy(b'{"format":"attestream-policy/1","bank":"sha256","pcrs":{"0":["' + b"00" * 32 + b'"]}}')
PARTITION = SimpleNamespace(index=7, owned=True, late=False, unsettled=set(), fence=SimpleNamespace(token=10))
"""What the journal needs of a partition that is owned."""


class CountingStore(Store):
    """Counts the transactions."""

    saves = 0

    async def save(self, rows, marks=()):
        self.saves += bool(rows)
        await super().save(rows, marks)


@pytest.fixture
async def engine(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/verifier.db")
    await migrate(engine, "services.verifier.migrations")
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine):
    return CountingStore(engine)


@pytest.fixture
def now():
    return [1_800_000_000_000]


@pytest.fixture
async def journal(store, now):
    journal = Journal(None, store, lambda: now[0], "w", flush_ms=10)
    running = asyncio.create_task(journal.run())
    yield journal
    running.cancel()


@pytest.fixture
def attester():
    return attesters(1)[0]


def attesters(count):
    public = parse_public(make_agent("any").tpm.ak_public)
    made = []
    for number in range(count):
        attester = Attester(f"agent-{number}", PARTITION, POLICY, "base@1")
        attester.ak, attester.transport = public, b"t" * 32
        made.append(attester)
    return made


async def stored(store, attester, last_at, within_s=5.0):
    """Wait until the row of ``attester`` says ``last_at``."""
    async with asyncio.timeout(within_s):
        while True:
            row = await store.agent(attester.agent_id)
            if row is not None and row.last_at == last_at:
                return
            await asyncio.sleep(0.01)


async def test_a_change_is_written_soon(journal, store, attester):
    attester.last_at = 1
    journal.touch(attester)
    await stored(store, attester, 1)


async def test_progress_waits_and_is_then_written_once(journal, store, attester, now):
    journal.progressed(attester)
    for later in range(1, 4):
        now[0] += PROGRESS_MS // 4
        attester.last_at = later
        journal.progressed(attester)
    await journal._write()
    assert await store.agent(attester.agent_id) is None
    now[0] += PROGRESS_MS // 4
    await stored(store, attester, 3)
    assert store.saves == 1


async def test_a_change_takes_the_progress_along(journal, store, attester, now):
    journal.progressed(attester)
    attester.last_at = 5
    journal.touch(attester)
    await stored(store, attester, 5)
    now[0] += 2 * PROGRESS_MS
    journal._ripen()
    assert not journal._dirty


async def test_a_planned_end_writes_all(journal, store, attester):
    attester.last_at = 9
    journal.progressed(attester)
    await journal.flush()
    assert (await store.agent(attester.agent_id)).last_at == 9


async def test_what_is_forgotten_is_not_written(journal, store, attester):
    journal.progressed(attester)
    journal.forget(attester)
    await journal.flush()
    assert await store.agent(attester.agent_id) is None


async def test_savers_share_transactions(journal, store):
    many = attesters(100)
    await asyncio.gather(*(journal.save(attester) for attester in many))
    assert store.saves <= 2
    assert len((await store.partition(7)).rows) == 100


async def test_a_saver_is_told_when_the_database_refuses_and_the_row_is_kept(engine, journal, store, attester):
    async with transaction(engine) as connection:
        await connection.run_sync(ATTESTERS.drop)
    with pytest.raises(StorageError):
        await journal.save(attester)
    async with transaction(engine) as connection:
        await connection.run_sync(ATTESTERS.create)
    await stored(store, attester, 0)
    assert (await store.agent(attester.agent_id)).standing == Standing.PENDING


async def test_a_batch_that_was_cut_off_is_written_at_the_end(store, attester, now):
    class StoppedStore(CountingStore):
        async def save(self, rows, marks=()):
            began.set()
            await asyncio.Event().wait()

    began = asyncio.Event()
    journal = Journal(None, store, lambda: now[0], "w", flush_ms=10)
    journal._store = StoppedStore(store._engine)
    running = asyncio.create_task(journal.run())
    attester.last_at = 9
    journal.touch(attester)
    await began.wait()
    running.cancel()
    await asyncio.wait({running})
    journal._store = store
    await journal.flush()
    assert (await store.agent(attester.agent_id)).last_at == 9
