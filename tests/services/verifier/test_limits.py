"""What one agent may cost its worker, and that others of its partition do not pay for it."""

import itertools
import threading

import msgspec

from attestream.appraisal.findings import finding
from attestream.bus import jetstream
from attestream.bus.partitions import partition
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet, unix_ms
from schemas import subjects, topology
from schemas.attestation import Hello, ImaDelta
from schemas.events import EventKind, Standing
from services.agent.evidence import cut
from services.verifier.attester import ALLOWANCE

POLICY = allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat")


class PartedFleet(SoftFleet):
    """Sends evidence as real agents do: in parts when it is large."""

    async def publish(self, evidence):
        for index, message in enumerate(cut(evidence)):
            message_id = f"{evidence.agent_id}:{evidence.seq}:{index}"
            await self._bus.publish_durable(subjects.evidence(evidence.agent_id), message, message_id=message_id)


def neighbours():
    """Return two agent ids of one partition."""
    ids = (f"agent-{number}" for number in itertools.count(1))
    return "agent-0", next(id_ for id_ in ids if partition(id_) == partition("agent-0"))


async def attested(pool, tenant, fleet, **times):
    await fleet.start()
    await fleet.serve_identities()
    worker = await pool.start("one")
    assert (await tenant.push("base", POLICY)).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, **times)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    return worker


async def kinds(tenant, agent_id):
    return [event.kind for event in await tenant.events(agent_id)]


async def unsettled(bus, agent_id):
    name = f"verifier-evidence-{partition(agent_id)}"
    info = await jetstream.call(bus, f"CONSUMER.INFO.{topology.EVIDENCE.name}.{name}")
    return info["num_ack_pending"] + info["num_pending"]


async def test_a_large_log_does_not_hold_up_the_partition(pool, tenant, bus, monkeypatch):
    large, small = neighbours()
    fleet = PartedFleet(bus, [make_agent(large), make_agent(small)])
    worker = await attested(pool, tenant, fleet, interval_ms=60_000, lease_ms=120_000)
    desk, appraise = worker.services.desk, worker.services.desk._appraise
    held = []
    release = threading.Event()

    def slow(attester, evidence, now):
        if attester.agent_id == large:
            held.append(evidence.seq)
            release.wait(60)
        return appraise(attester, evidence, now)

    monkeypatch.setattr(desk, "_appraise", slow)
    for number in range(3000):
        fleet.agents[large].run(f"/usr/bin/evil{number}", digest_of("x"))
    await fleet.notice(large)
    await eventually(lambda: held)
    fleet.agents[small].run("/usr/bin/evil", digest_of("x"))
    await fleet.notice(small)
    await tenant.becomes(small, Standing.FAILED, timeout_s=30)
    assert worker.attester(large).standing is Standing.TRUSTED
    release.set()
    await tenant.becomes(large, Standing.FAILED, timeout_s=30)

    async def settled():
        return await unsettled(bus, large) == 0

    await eventually(settled)
    await fleet.stop()


async def test_who_sends_without_end_is_not_listened_to(pool, tenant, bus):
    hostile, honest = neighbours()
    fleet = SoftFleet(bus, [make_agent(hostile), make_agent(honest)])
    worker = await attested(pool, tenant, fleet, interval_ms=60_000, lease_ms=120_000)
    looked = []
    soon = worker.scheduler.soon
    worker.scheduler.soon = lambda attester: (looked.append(attester.agent_id), soon(attester))
    worker.attester(hostile).allowance = 20
    hello = Hello(agent_id=hostile, enrolment=1, at=unix_ms())
    for number in range(400):
        await bus.publish_durable(subjects.evidence(hostile), hello, message_id=f"flood-{number}")
    fleet.agents[honest].run("/usr/bin/evil", digest_of("x"))
    await fleet.notice(honest)
    await tenant.becomes(honest, Standing.FAILED)

    async def refused():
        return EventKind.REFUSED in await kinds(tenant, hostile)

    await eventually(refused)
    assert looked.count(hostile) < 400
    assert (await kinds(tenant, hostile)).count(EventKind.REFUSED) == 1
    assert await tenant.standing(hostile) is Standing.TRUSTED
    await fleet.stop()


async def test_a_log_that_starts_over_unasked_is_asked_for_again_and_not_for_ever(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent("agent-0")])
    agent = fleet.agents["agent-0"]
    worker = await attested(pool, tenant, fleet, interval_ms=300, lease_ms=3000)
    appraised = worker.services.desk.appraised
    answer = agent.answer

    def from_the_start(challenge):
        evidence = answer(msgspec.structs.replace(challenge, known_digest=b""))
        data = b"".join(record.binary for record in agent.log)
        return msgspec.structs.replace(evidence, ima=ImaDelta(ima_first=0, count=len(agent.log), data=data))

    agent.answer = from_the_start
    before = appraised.total()
    await tenant.becomes("agent-0", Standing.UNREACHABLE)
    assert appraised.total() - before <= 1
    agent.answer = answer
    await tenant.becomes("agent-0", Standing.TRUSTED)
    agent.reboot()
    agent.run("boot_aggregate", digest_of("boot_aggregate"))
    count = worker.attester("agent-0").attestations
    await eventually(lambda: worker.attester("agent-0").attestations > count + 1)
    assert worker.attester("agent-0").standing is Standing.TRUSTED
    await fleet.stop()


async def test_a_wrong_enrolment_does_not_have_the_registrar_asked_each_time(pool, tenant, bus):
    asked = []

    class Counted(SoftFleet):
        async def _identity(self, query):
            asked.append(query.agent_id)
            return msgspec.structs.replace(await super()._identity(query), enrolment=1)

    fleet = Counted(bus, [make_agent("agent-0")])
    worker = await attested(pool, tenant, fleet, interval_ms=200, lease_ms=20_000)
    fleet.agents["agent-0"].enrolment = 7
    attester = worker.attester("agent-0")
    before, count = len(asked), attester.attestations
    await eventually(lambda: attester.attestations > count + 10, 30)
    assert 1 <= len(asked) - before <= 4
    await fleet.stop()


async def test_warnings_about_one_agent_do_not_fill_the_record(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent("agent-0")])
    worker = await attested(pool, tenant, fleet, interval_ms=60_000, lease_ms=120_000)
    desk, attester = worker.services.desk, worker.attester("agent-0")
    limit = desk._warnings_per_h = 5
    before = attester.event_number
    now = unix_ms()
    for number in range(20):
        await desk._warn(attester, [finding("runtime.padded", culprit=str(number))], now)
    assert attester.event_number == before + limit + 1
    last = (await tenant.events("agent-0"))[-1]
    assert (last.kind, last.findings[0].code) == (EventKind.WARNED, "limits.warnings")
    await desk._warn(attester, [finding("runtime.padded")], now + 3_600_000)
    assert (await tenant.events("agent-0"))[-1].findings[0].code == "runtime.padded"
    await fleet.stop()


async def test_a_result_that_is_written_late_lasts_no_longer(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent("agent-0")])
    worker = await attested(pool, tenant, fleet, interval_ms=60_000, lease_ms=120_000)
    attester = worker.attester("agent-0")
    attester.last_at = unix_ms() - 100_000
    await worker.services.journal.renew(attester)
    assert (await tenant.result("agent-0")).expires_at == attester.last_at + 120_000
    await fleet.stop()


async def test_an_allowance_has_room_for_the_largest_evidence_twice(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent("agent-0")])
    attester = (await attested(pool, tenant, fleet)).attester("agent-0")
    now = unix_ms() + 3_600_000
    assert all(attester.allow(now, 30) for _ in range(ALLOWANCE))
    assert not attester.allow(now, 30)
    assert attester.allow(now + 34, 30)
    await fleet.stop()
