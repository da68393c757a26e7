"""Evidence of several parts that can not be dealt with at first comes again as a whole."""

from attestream.bus import jetstream
from attestream.bus.partitions import partition
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.attestation import PART_BYTES
from schemas.enrolment import AgentQuery
from schemas.events import Standing
from services.agent.evidence import cut

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
