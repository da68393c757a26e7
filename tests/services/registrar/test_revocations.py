"""Failures that come together are decided together, and nothing of them is lost on the way to the servers."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from attestream.clock import unix_ms
from attestream.config import DatabaseUrl
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.database import migrate, open_engine, reading, transaction
from devtools.bus_identities import enrolled, put_on_record, registrar_config
from devtools.pool import eventually
from schemas.events import EventKind
from schemas.roles import Role
from services.registrar import bus_keys, standing
from services.registrar import revocations as module
from services.registrar.connections import Connections
from services.registrar.grouping import MOST
from services.registrar.revocations import Revocations
from services.registrar.service import serving
from services.registrar.standing import Decision, decided_by
from services.registrar.tables import MIGRATIONS

LIFETIME_S = 600
MANY = 12


def user() -> NKey:
    return NKey.generate(Kind.USER)


async def changes(engine) -> int:
    async with reading(engine) as connection:
        return (await bus_keys.changes(connection))[0]


async def test_what_was_decided_together_survives_who_has_decided_it(installation, connected, make_agent, tmp_path):
    """A registrar that is killed before it has told the servers, and before it has acknowledged any event."""
    config = registrar_config(installation, tmp_path / "registrar.db", lifetime_s=LIFETIME_S)
    names = [f"agent-{number}" for number in range(MANY)]
    enrolment, verifier = await connected(Role.ENROLMENT), await connected(Role.VERIFIER)
    mine = []
    async with serving(await connected(Role.REGISTRAR), config):
        for name in [*names, "good"]:
            key = user()
            mine.append(await connected(Credentials((await enrolled(enrolment, make_agent(name), key)).bus_token, key)))
    for name in names:
        await put_on_record(verifier, name, EventKind.FAILED)

    engine, doomed = open_engine(config.database_url), await connected(Role.REGISTRAR)
    revocations = Revocations(engine, doomed, None, lifetime_s=LIFETIME_S, clock=unix_ms)
    await revocations.start()
    # They come while the database is busy with something else.
    async with transaction(engine):
        await eventually(lambda: len(revocations._settling) >= MANY)
        # It gets no further than its database.
        await doomed.close()
    await eventually(lambda: not revocations._settling)
    async with reading(engine) as connection:
        kept = [await standing.kept(connection, name) for name in names]
    assert {(one.blocked, one.failed, one.reason) for one in kept} == {(True, True, "failed")}
    assert await changes(engine) <= 2, "perhaps the first alone, and all others together"
    assert all(bus.nc.is_connected for bus in mine)

    async with serving(await connected(Role.REGISTRAR), config):
        await eventually(lambda: all(bus.nc.is_closed for bus in mine[:-1]), 30)
        assert mine[-1].nc.is_connected
    await engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)
async def test_decisions_of_one_transaction_come_to_what_they_would_come_to_one_by_one(database_url):
    engine = open_engine(DatabaseUrl(database_url))
    await migrate(engine, MIGRATIONS)
    failed, started = partial(decided_by, EventKind.FAILED), partial(decided_by, EventKind.STARTED)
    news = [("b", failed(4)), ("a", failed(3)), ("a", started(5)), ("c", started(7)), ("c", failed(6)), ("b", failed(4))]
    now = 1_000_000
    async with transaction(engine) as connection:
        await bus_keys.begin(connection)
        # Each is new that is later than what was known before; a failure that is lifted at once still ends what there was.
        assert await standing.keep(connection, news) == [True, True, True, True, True, False]
        assert await standing.keep(connection, [("a", failed(4)), ("d", failed(8))]) == [False, True]
        kept = await standing.all_kept(connection, ["a", "b", "c", "d"])
        assert kept == {"a": started(5), "b": failed(4), "c": started(7), "d": failed(8)}
        assert kept["b"] == Decision(4, True, "failed", True)

        keys = [(agent_id, user().public) for agent_id in ("a", "b", "b", "e")]
        dates = await bus_keys.register_all(connection, keys, now=now, lifetime_s=60)
        assert dates == [now] * 4
        revoked = await bus_keys.revoke(connection, {"a", "b", "c"}, now=now)
        assert {name: set(found) for name, found in revoked.items()} == {"a": {keys[0][1]}, "b": {keys[1][1], keys[2][1]}}
        assert await bus_keys.changes(connection) == (1, 0)
        entries = await bus_keys.entries(connection, now=now)
        assert set(entries) == {key for _, key in keys[:3]}
        # A key that is registered again is dated after its entry, and the next entry after that.
        (again,) = await bus_keys.register_all(connection, keys[:1], now=now, lifetime_s=60)
        assert again == entries[keys[0][1]] + 1
        assert await bus_keys.revoke(connection, ["a", "c"], now=now) == {"a": [keys[0][1]]}
        assert (await bus_keys.entries(connection, now=now))[keys[0][1]] >= again
    await engine.dispose()


async def test_while_the_database_hangs_no_more_waits_than_the_server_hands_out(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ACK_WAIT_S", 0.3)
    engine = open_engine(DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"))
    await migrate(engine, MIGRATIONS)
    verifier, bus = await connected(Role.VERIFIER), await connected(Role.REGISTRAR)
    revocations = Revocations(engine, bus, None, lifetime_s=LIFETIME_S, clock=unix_ms)
    names = [f"agent-{number}" for number in range(MOST)]
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(put_on_record(verifier, name, EventKind.FAILED))
    await revocations.start()
    # All are delivered again while the first is still waiting.
    async with transaction(engine):
        await eventually(lambda: revocations._room.locked() and revocations.consumer.behind)
        assert len(revocations._settling) == MOST

    async def all_kept():
        async with reading(engine) as connection:
            return len(await standing.all_kept(connection, names)) == len(names)

    await eventually(all_kept, 30)
    await revocations.stop()
    assert not revocations._settling
    await engine.dispose()


@pytest.mark.parametrize("part", [(Revocations, "tell"), (Connections, "look")])
async def test_a_registrar_whose_part_has_ended_does_not_go_on_without_it(
    installation, connected, tmp_path, monkeypatch, part
):
    """It would enrol and renew, and cut nobody off any more."""

    async def broken(*_, **__):
        raise RuntimeError("something that nobody has thought of")

    monkeypatch.setattr(*part, broken)
    bus = await connected(Role.REGISTRAR)
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with asyncio.timeout(30), serving(bus, registrar_config(installation, tmp_path / "registrar.db")):
            await asyncio.Event().wait()


async def test_what_was_decided_by_a_record_that_is_lost_hides_nothing_of_the_new_one(connected, tmp_path):
    """A bus that was made anew counts its events from the start, and may have come far before the registrar does."""
    engine = open_engine(DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"))
    await migrate(engine, MIGRATIONS)
    verifier, bus = await connected(Role.VERIFIER), await connected(Role.REGISTRAR)

    async def follow():
        revocations = Revocations(engine, bus, None, lifetime_s=LIFETIME_S, clock=unix_ms)
        await revocations.start()
        return revocations

    async def sequences():
        async with reading(engine) as connection:
            return {name: one.sequence for name, one in (await standing.all_kept(connection, ["a", "b", "c"])).items()}

    for name, kind in (("a", EventKind.STARTED), ("b", EventKind.STARTED), ("a", EventKind.FAILED)):
        await put_on_record(verifier, name, kind)
    revocations = await follow()

    async def heard():
        return await sequences() == {"a": 3, "b": 2}

    await eventually(heard)
    await revocations.stop()
    # It is of this record, and counts on.
    await (await follow()).stop()
    assert await heard()
    for lost in (3, 30):
        async with transaction(engine) as connection:
            await standing.begin_anew(connection)
            await standing.keep(connection, [("b", decided_by(EventKind.STARTED, lost))])
        await (await follow()).stop()
        assert set((await sequences()).values()) == {0}
    await engine.dispose()
