"""The fence in the database, on every kind of database: rows of an overtaken owner change nothing."""

import asyncio

import msgspec
import pytest
from sqlalchemy import event, text

from attestream.database import migrate, open_engine, reading, transaction
from attestream.errors import StorageError
from services.verifier.snapshots import Mark
from services.verifier.store import ATTESTERS, BATCH, TOMBSTONE_MS, Row, Snapshot, Store, pack_findings


def a_row(agent_id="a", **changes):
    row = Row(
        agent_id=agent_id,
        partition=7,
        fence=10,
        policy="base@1",
        interval_ms=1000,
        lease_ms=30_000,
        enrolment=1,
        identity=b"identity",
        standing="trusted",
        state=b"state",
        accepted=1_800_000_000_000,
        incarnation="i",
        event_number=2,
        last_command="c",
        last_at=1_800_000_000_000,
        findings=pack_findings([]),
    )
    return msgspec.structs.replace(row, **changes)


@pytest.fixture
async def engine(database_url):
    engine = open_engine(database_url)
    await migrate(engine, "services.verifier.migrations")
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine):
    return Store(engine)


async def test_a_row_is_kept_as_it_was_saved(store):
    await store.save([a_row()])
    assert await store.agent("a") == a_row()
    assert await store.partition(7) == Snapshot([a_row()], None)
    assert await store.partition(8) == Snapshot([], None)
    assert await store.agent("b") is None


async def test_the_same_or_a_newer_fence_writes(store):
    await store.save([a_row()])
    await store.save([a_row(standing="failed")])
    assert (await store.agent("a")).standing == "failed"
    await store.save([a_row(fence=11, standing="pending")])
    assert await store.agent("a") == a_row(fence=11, standing="pending")


async def test_an_older_fence_writes_nothing_and_spoils_nothing_beside_it(store):
    await store.save([a_row("a", fence=11), a_row("b", fence=9)])
    await store.save([a_row("a", fence=10, standing="failed"), a_row("b", fence=10, standing="failed")])
    assert await store.agent("a") == a_row("a", fence=11)
    assert await store.agent("b") == a_row("b", fence=10, standing="failed")


async def test_an_older_fence_deletes_nothing(store):
    await store.save([a_row()])
    await store.delete("a", 9)
    assert await store.agent("a") == a_row()
    await store.delete("a", 10)
    assert await store.agent("a") is None


async def test_owners_that_write_at_the_same_time_leave_the_newest(engine):
    fences = [10, 13, 11, 12, 14]
    ids = [f"agent-{number:03}" for number in range(50)]
    # Each in another order: rows that are locked crosswise must not end in a deadlock.
    batches = [ids[fence:] + ids[:fence] for fence in fences]
    saves = [[a_row(id_, fence=fence) for id_ in batch] for fence, batch in zip(fences, batches, strict=True)]
    await asyncio.gather(*(Store(engine).save(rows) for rows in saves))
    assert {row.fence for row in (await Store(engine).partition(7)).rows} == {14}


async def test_more_rows_than_one_statement_holds(store):
    await store.save([a_row(f"agent-{number:04}") for number in range(2 * BATCH + 1)])
    assert len((await store.partition(7)).rows) == 2 * BATCH + 1
    page = await store.page("agent-0499", 3)
    assert [row.agent_id for row in page] == ["agent-0500", "agent-0501", "agent-0502"]


async def test_marks_are_kept_beside_the_rows_and_fenced_as_they_are(store):
    await store.save([a_row(f"agent-{number:04}") for number in range(BATCH + 1)], [Mark(7, 10, 100), Mark(8, 12, 90)])
    assert (await store.partition(7)).mark == Mark(7, 10, 100)
    await store.save([], [Mark(7, 9, 150), Mark(8, 12, 95)])
    assert (await store.partition(7)).mark == Mark(7, 10, 100)
    assert await store.partition(8) == Snapshot([], Mark(8, 12, 95))


async def test_a_mark_is_not_written_without_its_rows(store, engine):
    async with transaction(engine) as connection:
        await connection.run_sync(ATTESTERS.drop)
    with pytest.raises(StorageError):
        await store.save([a_row()], [Mark(7, 10, 100)])
    async with transaction(engine) as connection:
        await connection.run_sync(ATTESTERS.create)
    assert (await store.partition(7)).mark is None


async def test_ids_that_differ_in_case_are_different_agents(store):
    await store.save([a_row("web-1"), a_row("WEB-1", standing="failed")])
    assert (await store.agent("web-1")).standing == "trusted"
    assert (await store.agent("WEB-1")).standing == "failed"
    assert await store.agent("Web-1") is None


async def test_bytes_of_every_value_and_of_any_length_are_kept(store):
    row = a_row(identity=bytes(range(256)) + b"%s '\\", state=b"x" * 200_000)
    await store.save([row])
    assert await store.agent("a") == row


# SQLite has no lengths.
@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
async def test_text_that_does_not_fit_is_refused(store):
    with pytest.raises(StorageError):
        await store.save([a_row(last_command="x" * 65)])
    assert await store.agent("a") is None


async def test_rows_that_wait_together_are_one_statement(engine, store):
    statements = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    await store.save([a_row(f"agent-{number:04}") for number in range(BATCH)])
    assert len([statement for statement in statements if "verifier_attesters" in statement]) == 1


async def test_rows_that_wait_together_are_one_statement_of_the_mariadb_server(mariadb_url):
    """Its driver makes one statement of many only when it recognises how that is written."""

    async def inserts() -> int:
        async with reading(engine) as connection:
            return int((await connection.execute(text("SHOW GLOBAL STATUS LIKE 'Com_insert'"))).one()[1])

    engine = open_engine(mariadb_url)
    await migrate(engine, "services.verifier.migrations")
    before = await inserts()
    await Store(engine).save([a_row(f"agent-{number:04}") for number in range(BATCH)])
    assert await inserts() == before + 1
    await engine.dispose()


async def test_partitions_that_are_asked_for_together_each_get_their_rows(store):
    await store.save([a_row(f"{partition}-{number}", partition=partition) for partition in range(8) for number in range(3)])
    answers = await asyncio.gather(*(store.partition(partition) for partition in (*range(9), 3)))
    for partition, answer in enumerate(answers[:9]):
        expected = {f"{partition}-{number}" for number in range(3)} if partition < 8 else set()
        assert {row.agent_id for row in answer.rows} == expected
    assert answers[9] == answers[3]


async def test_everybody_who_asks_a_database_without_tables_is_told(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/empty.db")
    store = Store(engine)
    answers = await asyncio.gather(*(store.partition(partition) for partition in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageError] * 3
    await engine.dispose()


async def test_one_who_gives_up_does_not_disturb_the_others(store):
    await store.save([a_row()])
    hasty, patient = asyncio.create_task(store.partition(7)), asyncio.create_task(store.partition(7))
    await asyncio.sleep(0)
    hasty.cancel()
    assert (await patient).rows == [a_row()]


async def test_a_deleted_agent_leaves_a_tombstone_for_as_long_as_a_command_may_count(store):
    now = 1_800_000_000_000
    assert await store.ended_at("a") == 0
    await store.save([a_row()])
    await store.delete("a", 10, commanded_at=now, now=now)
    assert (await store.agent("a"), await store.ended_at("a")) == (None, now)
    # An overtaken owner does not turn it back; where nothing is signed there is none.
    await store.delete("a", 9, commanded_at=now - 1, now=now)
    await store.delete("b", 10)
    assert (await store.ended_at("a"), await store.ended_at("b")) == (now, 0)
    await store.delete("c", 10, commanded_at=now + TOMBSTONE_MS, now=now + TOMBSTONE_MS)
    assert await store.ended_at("a") == now
    await store.delete("c", 10, commanded_at=now + TOMBSTONE_MS, now=now + TOMBSTONE_MS + 1)
    assert (await store.ended_at("a"), await store.ended_at("c")) == (0, now + TOMBSTONE_MS)
