"""Evidence of several parts that can not be dealt with at first comes again as a whole."""

from msgspec.structs import replace

from attestream.bus import jetstream
from attestream.bus.partitions import partition
from attestream.bus.window import PullWindow
from devtools import ima_log
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.attestation import MAX_PARTS, PART_BYTES, EvidencePart
from schemas.enrolment import AgentQuery
from schemas.events import EventKind, Standing
from services.agent.evidence import cut
from services.verifier import assembly, intake

LONG = "/tmp/" + "x" * 3900


class PartedFleet(SoftFleet):
    """Sends evidence as real agents do: in parts when it is large."""

    parts = 0

    async def publish(self, evidence):
        base = f"{evidence.agent_id}:{evidence.enrolment}:{evidence.seq}"
        for index, message in enumerate(cut(evidence)):
            self.parts += index > 0
            await self._bus.publish_durable(subjects.evidence(evidence.agent_id), message, message_id=f"{base}:{index}")


async def test_all_parts_are_tried_again_together(pool, tenant, bus):
    """The agent has enrolled anew, and the registrar that is to be asked about it is away for a moment."""
    fleet = PartedFleet(bus, [make_agent("a")])
    await fleet.start()
    registrar = await bus.serve(subjects.QUERY_REGISTRAR_AGENT, "registrar", AgentQuery, fleet._identity)
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("a", interval_ms=60_000, lease_ms=120_000)).ok
    await tenant.becomes("a", Standing.TRUSTED)
    await registrar.stop()
    agent = fleet.agents["a"]
    agent.enrolment = 2
    for number in range(PART_BYTES // len(LONG) + 10):
        agent.run(f"{LONG}{number}", digest_of("x"))
    await fleet.notice("a")
    await eventually(lambda: fleet.parts == 2)
    await eventually(lambda: delivered_again(bus))
    assert worker.attester("a").enrolment == 1
    fleet.silent.add("a")  # what follows is about the evidence that is there
    await fleet.serve_identities()
    await eventually(lambda: worker.attester("a").enrolment == 2)
    await eventually(lambda: worker.attester("a").state.ima_entries == len(agent.log))
    assert await tenant.standing("a") is Standing.TRUSTED
    assert fleet.parts == 2
    await eventually(lambda: settled(bus))
    await fleet.stop()


async def delivered_again(bus):
    """Whether every part, and the head, were given out more than once."""
    name = f"verifier-evidence-{partition('a')}"
    info = await jetstream.call(bus, f"CONSUMER.INFO.{topology.EVIDENCE.name}.{name}")
    return info["num_redelivered"] == 3


async def settled(bus):
    info = await jetstream.call(bus, f"STREAM.INFO.{topology.EVIDENCE.name}")
    return info["state"]["messages"] == 0


class CrumblingFleet(SoftFleet):
    """Cuts the logs of its evidence into as many parts as there may be."""

    async def publish(self, evidence):
        if evidence.ima is None or len(evidence.ima.data) < MAX_PARTS:
            await super().publish(evidence)
            return
        log = evidence.ima.data
        size = -(-len(log) // MAX_PARTS)
        chunks = [log[start : start + size] for start in range(0, len(log), size)]
        head = replace(evidence, ima=replace(evidence.ima, data=b""), parts=len(chunks))
        parts = [
            EvidencePart(agent_id=evidence.agent_id, seq=evidence.seq, index=index, boot=False, data=chunk)
            for index, chunk in enumerate(chunks)
        ]
        for index, message in enumerate([head, *parts]):
            message_id = f"{evidence.agent_id}:{evidence.seq}:{index}"
            await self._bus.publish_durable(subjects.evidence(evidence.agent_id), message, message_id=message_id)


async def trusted(fleet, pool, tenant):
    """Have agent ``a`` of ``fleet`` attested by one worker until it is trusted; return the worker."""
    await fleet.start()
    await fleet.serve_identities()
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("a", interval_ms=60_000, lease_ms=120_000)).ok
    await tenant.becomes("a", Standing.TRUSTED)
    return worker


async def test_the_most_parts_that_are_allowed(pool, tenant, bus):
    """All of them are unacknowledged until the last has come: the server must give out that many."""
    fleet = CrumblingFleet(bus, [make_agent("a")])
    worker = await trusted(fleet, pool, tenant)
    agent = fleet.agents["a"]
    fleet.agents["a"].run("/tmp/" + "x" * (MAX_PARTS * 15 - 100), digest_of("x"))
    await fleet.notice("a")
    await eventually(lambda: worker.attester("a").state.ima_entries == len(agent.log))
    await eventually(lambda: settled(bus))
    await fleet.stop()


async def test_a_log_that_is_too_long_for_one_evidence(pool, tenant, bus):
    """It is trusted once all has come; what a part warned of is on the record although the last part is silent about it."""
    agent = make_agent("a")
    for number in range(6):
        agent.run(f"/tmp/{number}", digest_of("x"))
    agent.violate("/tmp/early")
    for number in range(6):
        agent.run(f"/tmp/late-{number}", digest_of("x"))
    agent.at_once = 2
    fleet = SoftFleet(bus, [agent])
    worker = await trusted(fleet, pool, tenant)
    assert worker.attester("a").state.ima_entries == len(agent.log) == 14
    assert fleet.news == 7
    said = [(event.kind, [found.culprit for found in event.findings]) for event in await tenant.events("a")]
    assert said == [(EventKind.ADDED, []), (EventKind.WARNED, ["/tmp/early"]), (EventKind.TRUSTED, [])]
    await fleet.stop()


async def test_parts_without_end_keep_nobody_trusted(pool, tenant, bus):
    """A machine that has run something bad shows what others may run, one entry at a time, and says that there is more."""
    agent = make_agent("a")
    fleet = SoftFleet(bus, [agent])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("a", interval_ms=500, lease_ms=1500)).ok
    await tenant.becomes("a", Standing.TRUSTED)
    agent.run("/tmp/bad", digest_of("bad"))
    agent.log[-1:] = [ima_log.record("/tmp/x", digest_of("x"))] * 5000
    agent.at_once = 1
    await fleet.notice("a")

    async def on_record():
        return EventKind.LAPSED in [event.kind for event in await tenant.events("a")]

    await eventually(on_record)
    assert await tenant.standing("a") is not Standing.TRUSTED
    await fleet.stop()


def test_parts_of_all_partitions_fit_into_what_a_server_holds_for_one_client():
    """A worker that reads slower than large logs come in was cut off, and then again by what it asked for once more."""
    window = PullWindow(intake.EVIDENCE_BATCH)
    while window.due:
        window.opened()
    assert window.outstanding * subjects.PARTITIONS * topology.EVIDENCE_MESSAGE_BYTES < 64 << 20


async def test_parts_that_never_become_whole_do_not_hold_up_the_partition(pool, tenant, bus, monkeypatch):
    monkeypatch.setattr(assembly, "LIFETIME_MS", 500)
    fleet = SoftFleet(bus, [make_agent("a")])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("a", interval_ms=60_000, lease_ms=120_000)).ok
    await tenant.becomes("a", Standing.TRUSTED)
    for index in range(5):
        part = EvidencePart(agent_id="a", seq=1 << 50, index=index, boot=False, data=b"x")
        await bus.publish_durable(subjects.evidence("a"), part, message_id=f"orphan-{index}")

    async def unsettled() -> int:
        name = f"verifier-evidence-{partition('a')}"
        info = await jetstream.call(bus, f"CONSUMER.INFO.{topology.EVIDENCE.name}.{name}")
        return info["num_ack_pending"] + info["num_pending"]

    await eventually(unsettled)

    async def settled() -> bool:
        return await unsettled() == 0

    await eventually(settled, 30)
