"""What a hostile agent, or a stranger on the bus, can not do to the pool."""

import asyncio
import time
import uuid

import msgspec
import pytest

from devtools.pool import Pool, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet, unix_ms
from schemas import subjects
from schemas.base import SchemaError
from schemas.commands import DeleteAgent, StopAgent
from schemas.events import Event, EventKind, Standing
from services.agent.evidence import cut

POLICY = allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat")
EVIL = "/usr/bin/evil"


async def under_attestation(pool, tenant, fleet, **times):
    worker = await pool.start("one")
    assert (await tenant.push("base", POLICY)).ok
    for agent_id in fleet.agents:
        outcome = await tenant.add(agent_id, **times)
        assert outcome.ok, outcome.message
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    return worker


def kinds(events):
    return [event.kind for event in events]


class Mute(SoftFleet):
    """Signs quotes but never shows the values behind them."""

    hiding = False

    def __init__(self, bus, agents):
        super().__init__(bus, agents)
        for agent in agents:
            agent.answer = self._hidden(agent, agent.answer)

    def _hidden(self, agent, answer):
        def hidden(challenge):
            evidence = answer(challenge)
            if self.hiding and evidence.pcr_values:
                return msgspec.structs.replace(evidence, pcr_values={}, ima=None)
            return evidence

        return hidden


async def test_who_hides_what_ran_is_unreachable_on_the_record(pool, tenant, bus):
    fleet = Mute(bus, [make_agent("agent-0")])
    await fleet.start()
    await fleet.serve_identities()
    worker = await under_attestation(pool, tenant, fleet, interval_ms=300, lease_ms=2000)
    fleet.hiding = True
    fleet.agents["agent-0"].run(EVIL, digest_of(EVIL))
    await tenant.becomes("agent-0", Standing.UNREACHABLE)
    assert worker.attester("agent-0").standing is Standing.UNREACHABLE
    assert EventKind.UNREACHABLE in kinds(await tenant.events("agent-0"))
    await fleet.stop()


async def test_an_event_that_nobody_can_read_stops_no_worker(pool, tenant, fleet, bus):
    await under_attestation(pool, tenant, fleet)
    await pool.cut("one")
    await bus.nc.publish(subjects.event(EventKind.WARNED, "agent-0"), b"\xc1 no message")
    await bus.nc.publish(subjects.result("agent-1"), b"\xc1 no message")
    await bus.nc.flush()
    await pool.start("two")
    await eventually(lambda: owned_by(tenant, "agent-2", "two"))
    await eventually(lambda: owned_by(tenant, "agent-0", "two"))
    await eventually(lambda: owned_by(tenant, "agent-1", "two"))
    assert not pool._workers["two"][2].done()


async def owned_by(tenant, agent_id, worker):
    try:
        result = await tenant.result(agent_id)
    except SchemaError:
        return False  # the unreadable one still stands
    return result is not None and result.worker == worker and result.standing is Standing.TRUSTED


@pytest.mark.alone
async def test_a_command_with_a_reply_subject_that_is_none_holds_up_no_other(pool, tenant, fleet, bus):
    await under_attestation(pool, tenant, fleet)
    for reply in ("_INBOX.a b c d", "_INBOX..x", "_INBOX.>"):
        stop = StopAgent(command_id=uuid.uuid4().hex, agent_id="agent-0")
        await bus.publish_durable(
            subjects.command("agent-0"), stop, message_id=stop.command_id, headers={subjects.HEADER_REPLY_TO: reply}
        )
    began = time.monotonic()
    stop = StopAgent(command_id=uuid.uuid4().hex, agent_id="agent-0")
    assert (await tenant.command("agent-0", stop, timeout_s=10)).ok
    assert time.monotonic() - began < 3


async def test_a_failure_is_on_the_record_though_its_number_was_stored_before(pool, tenant, fleet, bus):
    """The receipt of an event was lost: it is stored, and its writer believes that it is not."""
    worker = await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    attester = worker.attester("agent-0")
    number = attester.event_number + 1
    lost = Event(
        id=f"agent-0:{attester.incarnation}:{number}",
        kind=EventKind.WARNED,
        agent_id="agent-0",
        at=unix_ms(),
        event_number=number,
        standing=Standing.TRUSTED,
        before=Standing.TRUSTED,
    )
    await worker.services.journal.record(lost, attester.partition.fence)
    fleet.agents["agent-0"].run(EVIL, digest_of(EVIL))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    assert EventKind.FAILED in kinds(await tenant.events("agent-0"))


async def test_a_stranger_can_not_say_that_nobody_listens(pool, tenant, fleet, bus):
    worker = await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    heard = []

    async def note(agent, reply):
        heard.append(reply)

    fleet.asked = note
    await fleet.hello("agent-0")
    await eventually(lambda: heard)
    own = heard[0]
    victim = worker.attester("agent-1")
    fleet.silent.add("agent-1")
    await fleet.hello("agent-1")
    await eventually(lambda: victim.in_flight)
    missed = victim.missed
    for guess in (own.removesuffix("agent-0") + "agent-1", own.rsplit(".", 2)[0] + ".agent-1"):
        await bus.nc.publish(guess, b"")
    await bus.nc.flush()
    await asyncio.sleep(0.2)
    assert victim.in_flight
    assert victim.missed == missed


async def test_hellos_do_not_bring_a_deleted_agent_back(pool, tenant, fleet, bus):
    worker = await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    attester = worker.attester("agent-0")
    scheduler = worker.scheduler
    scheduler.in_flight += scheduler._cap  # all turns are taken for now
    for _ in range(1000):
        scheduler.soon(attester)
    assert len(scheduler._ready) < 10
    delete = DeleteAgent(command_id=uuid.uuid4().hex, agent_id="agent-0")
    assert (await tenant.command("agent-0", delete)).ok
    fleet.silent.add("agent-0")
    scheduler.in_flight -= scheduler._cap
    await asyncio.sleep(0.2)
    assert not attester.in_flight


class PartedFleet(SoftFleet):
    """Sends evidence as real agents do: in parts when it is large."""

    async def publish(self, evidence):
        for index, message in enumerate(cut(evidence)):
            message_id = f"{evidence.agent_id}:{evidence.seq}:{index}"
            await self._bus.publish_durable(subjects.evidence(evidence.agent_id), message, message_id=message_id)


async def longest_pause(until):
    """Return for how many seconds the worker stood still, at most, until ``until`` was done."""
    longest = 0.0
    while not until.done():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.alone
async def test_no_log_is_so_long_that_a_worker_stands_still(pool, tenant, bus):
    """A worker that stands still for a lease's life loses all its partitions, and its successor gets the same log."""
    fleet = PartedFleet(bus, [make_agent("agent-0")])
    await fleet.start()
    await fleet.serve_identities()
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    agent = fleet.agents["agent-0"]
    for number in range(50_000):
        agent.run(f"{EVIL}{number}", digest_of(EVIL))
    await fleet.notice("agent-0")
    failed = asyncio.ensure_future(tenant.becomes("agent-0", Standing.FAILED, timeout_s=60))
    assert await longest_pause(failed) < 0.5
    await failed
    await fleet.stop()


async def test_a_command_whose_id_no_row_takes_stops_no_other(nats_server, tmp_path, settings, tenant, fleet, postgres_url):
    pool = Pool(nats_server.url, tmp_path, settings, postgres_url)
    try:
        await under_attestation(pool, tenant, fleet)
        for name in ("x" * 65, "nul\x00", ""):
            poison = StopAgent(command_id=name, agent_id="agent-0")
            await tenant.bus.publish_durable(subjects.command("agent-0"), poison, message_id=uuid.uuid4().hex)
        stop = StopAgent(command_id=uuid.uuid4().hex, agent_id="agent-0")
        assert (await tenant.command("agent-0", stop)).ok
        await eventually(lambda: stored_standing(pool, "agent-0", "stopped"))
    finally:
        await pool.close()


async def stored_standing(pool, agent_id, standing):
    return (await pool.store.agent(agent_id)).standing == standing
