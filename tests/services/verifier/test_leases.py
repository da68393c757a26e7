"""Who owns a partition: sessions that are late, lapse and race, records of the dead, and a fence that somebody has moved."""

import asyncio

import pytest

from attestream.bus import keyvalue
from attestream.errors import BusError, FencedError
from devtools.pool import allowing, eventually
from schemas import subjects, topology
from schemas.events import Standing
from services.verifier.lease import Fence, Lease, Session, is_over, owners
from services.verifier.partition import Partition

LEASES = topology.LEASES.name


async def attested(pool, tenant, fleet):
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    return worker, [worker.attester(agent_id) for agent_id in fleet.agents]


def owns_all(worker):
    return len(worker.status().partitions) == subjects.PARTITIONS


async def session_of(bus, name):
    """Return the one session under which ``name`` owns every partition, None while it does not."""
    known = await owners(bus)
    sessions = {owner.session for owner in known.values() if owner.worker == name and owner.alive}
    return sessions.pop() if len(known) == subjects.PARTITIONS and len(sessions) == 1 else None


async def test_agents_are_challenged_again_after_a_late_renewal(pool, tenant, fleet):
    worker, attesters = await attested(pool, tenant, fleet)
    # As after a stall that was a little shorter than the session: nobody else has taken anything, and it will be renewed.
    attesters[0].partition.lease._session._valid_until = 0.0
    for attester in attesters:
        worker.scheduler.later(attester, 0)
    await eventually(lambda: not any(attester.in_flight for attester in attesters))
    seqs = [attester.seq for attester in attesters]
    await eventually(lambda: all(attester.accepted > seq for attester, seq in zip(attesters, seqs, strict=True)))


async def test_a_fence_that_was_overtaken_is_taken_anew(pool, tenant, fleet, bus):
    worker, attesters = await attested(pool, tenant, fleet)
    old = attesters[0].partition
    await Fence(bus, old.index, "stranger").take(0)

    async def taken_anew():
        attester = worker.attester("agent-0")
        return attester is not None and attester.partition is not old and attester.partition.owned

    await eventually(taken_anew)
    assert worker.attester("agent-0").partition.fence.token > old.fence.token
    fleet.agents["agent-0"].run("/usr/bin/evil", b"x" * 32)
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)


async def test_a_worker_whose_session_has_lapsed_begins_another_and_takes_everything_anew(pool, tenant, fleet, bus):
    worker, attesters = await attested(pool, tenant, fleet)
    first = await eventually(lambda: session_of(bus, "one"))
    old = {attester.agent_id: attester.partition for attester in attesters}
    await keyvalue.delete(bus, LEASES, f"{topology.KEY_SESSION}{first}")

    def taken_anew():
        found = [worker.attester(agent_id) for agent_id in old]
        return all(now is not None and now.partition is not old[now.agent_id] and now.partition.owned for now in found)

    await eventually(taken_anew)
    assert await eventually(lambda: session_of(bus, "one")) != first
    assert not any(partition.owned for partition in old.values())
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)


async def test_a_session_that_has_lapsed_is_never_renewed(bus):
    session = Session(bus, "one", 1)
    await session.renew(0)
    assert session.valid
    await eventually(lambda: is_over(bus, session.id))
    for _ in range(2):
        with pytest.raises(FencedError):
            await session.renew(0)
        assert session.lost
        assert not session.valid
    assert await is_over(bus, session.id)


async def test_one_of_those_who_race_for_the_partition_of_a_dead_worker_gets_it(bus):
    dead = Session(bus, "dead", 1)
    await dead.renew(0)
    lost = Lease(bus, 7, "dead", dead)
    assert await lost.acquire(0)
    assert lost.valid
    assert (await owners(bus))[7].alive
    await eventually(lambda: is_over(bus, dead.id))
    [owner] = (await owners(bus)).values()
    assert (owner.worker, owner.session, owner.alive) == ("dead", dead.id, False)
    assert not lost.valid

    sessions = [Session(bus, f"w{number}", 20) for number in range(8)]
    leases = [Lease(bus, 7, f"w{number}", session) for number, session in enumerate(sessions)]
    await asyncio.gather(*(session.renew(0) for session in sessions))
    taken = await asyncio.gather(*(lease.acquire(0, owner.revision) for lease in leases))
    assert sum(taken) == 1
    winner = leases[taken.index(True)]
    assert [lease.valid for lease in leases] == taken
    assert (await owners(bus))[7].session == sessions[taken.index(True)].id
    # The dead one's late word of farewell takes nothing away.
    await lost.release()
    assert (await owners(bus))[7].revision == winner.revision
    await winner.release()
    assert await owners(bus) == {}


async def test_a_partition_that_was_taken_under_a_session_that_is_over_by_then_is_not_owned(bus):
    session = Session(bus, "slow", 1)
    await session.renew(0)
    await eventually(lambda: is_over(bus, session.id))
    lease = Lease(bus, 3, "slow", session)
    await lease.acquire(0)
    assert not lease.valid
    assert not (await owners(bus))[3].alive


async def test_a_worker_restarted_under_its_name_waits_for_its_former_session(pool, bus):
    before = await pool.start("one")
    await eventually(lambda: owns_all(before))
    first = await eventually(lambda: session_of(bus, "one"))
    await pool.cut("one")
    after = await pool.start("one")
    await eventually(lambda: owns_all(after))
    assert await is_over(bus, first)
    assert await session_of(bus, "one") != first
    for index, partition in after._holdings.partitions.items():
        assert partition.fence.token > before._holdings.partitions[index].fence.token


async def test_a_worker_that_stops_leaves_no_record_behind(pool, bus):
    one = await pool.start("one")
    await eventually(lambda: owns_all(one))
    await pool.stop("one")
    assert await owners(bus) == {}


async def test_a_worker_drops_what_is_not_on_record_as_its_own(pool, bus):
    """It can only come to pass when the bus has forgotten something, or a stranger writes there."""
    one = await pool.start("one")
    await eventually(lambda: owns_all(one))
    session = Session(bus, "two", 1)
    await session.renew(0)
    other = Lease(bus, 5, "two", session)
    assert await other.acquire(0, (await owners(bus))[5].revision)
    await keyvalue.put(bus, LEASES, "9", b"rubbish", expected=None)
    await keyvalue.delete(bus, LEASES, "11")
    old = {index: one._holdings.partitions[index] for index in (5, 9, 11)}

    def taken_back():
        return owns_all(one) and all(one._holdings.partitions[index] is not partition for index, partition in old.items())

    await eventually(taken_back)
    assert await is_over(bus, session.id)


async def test_a_record_of_what_is_not_held_any_more_is_in_nobodys_way(pool, bus):
    """As when a partition was handed over while the bus was away: its record names a live session, and nobody owns it."""
    one, two = await pool.start("one"), await pool.start("two")
    await eventually(lambda: len(one.status().partitions) == len(two.status().partitions) == 32, 60)
    index = two.status().partitions[0]
    old = two._holdings.partitions[index]
    assert await Lease(bus, index, "one", one._holdings._session).acquire(0, (await owners(bus))[index].revision)

    async def taken_back():
        again = two._holdings.partitions.get(index)
        return again is not None and again is not old and (await owners(bus))[index].worker == "two"

    await eventually(taken_back, 60)


async def test_no_partition_is_opened_twice_because_another_can_not_be_taken(pool, bus, monkeypatch):
    """The bus does not answer about one while another is still being opened: a second owner here would take its evidence
    from the first, and neither would be closed."""
    opened, again, refused = [], asyncio.Event(), []
    acquire, opens = Lease.acquire, Partition.open

    async def acquired(lease, now, replaces=0):
        if lease._partition == 1 and not refused:
            refused.append(lease)
            raise BusError("it could not be written")
        return await acquire(lease, now, replaces)

    async def slowly(partition):
        opened.append(partition.index)
        if opened.count(0) > 1:
            again.set()
        elif partition.index == 0:
            # No longer than it takes other turns to come to it.
            await asyncio.wait([asyncio.ensure_future(again.wait())], timeout=1)
        await opens(partition)

    monkeypatch.setattr(Lease, "acquire", acquired)
    monkeypatch.setattr(Partition, "open", slowly)
    worker = await pool.start("one")
    await eventually(lambda: owns_all(worker), 30)
    assert refused
    assert opened.count(0) == 1
    again.set()
