"""A lease that is only late, and a fence that somebody else has moved: no agent is forgotten for either."""

from devtools.pool import allowing, eventually
from schemas.events import Standing
from services.verifier.lease import Fence


async def attested(pool, tenant, fleet):
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    return worker, [worker.attester(agent_id) for agent_id in fleet.agents]


async def test_agents_are_challenged_again_after_a_late_renewal(pool, tenant, fleet):
    worker, attesters = await attested(pool, tenant, fleet)
    # As after a stall that was a little shorter than the lease: nobody else has taken it, and it will be renewed.
    for attester in attesters:
        attester.partition.lease._valid_until = 0.0
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

    await eventually(taken_anew, 15)
    assert worker.attester("agent-0").partition.fence.token > old.fence.token
    fleet.agents["agent-0"].run("/usr/bin/evil", b"x" * 32)
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
