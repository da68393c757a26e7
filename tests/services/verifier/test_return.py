"""A bus that was restarted under a large fleet: nobody is blamed for coming back later than the worker."""

from devtools.pool import allowing, eventually
from schemas.events import EventKind, Standing


async def test_agents_that_come_back_later_than_the_worker_stay_trusted(pool, tenant, fleet, nats_server):
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=60_000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    fleet.silent |= fleet.agents.keys()
    nats_server.kill()
    nats_server.start()
    late = worker.attester("agent-0")
    seen = set()

    def challenged_again_and_again():
        seen.add(late.seq)
        return len(seen) > 2 * late.partition.settings.missed_before_unreachable

    await eventually(challenged_again_and_again, 60)
    assert late.standing is Standing.TRUSTED
    fleet.silent.clear()
    last = late.seq
    await eventually(lambda: late.accepted > last, 60)
    kinds = {event.kind for event in await tenant.events("agent-0")}
    assert not kinds & {EventKind.UNREACHABLE, EventKind.LAPSED}
