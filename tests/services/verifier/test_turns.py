"""What happens to one agent at the same moment happens one after the other: each event has a number of its own."""

import asyncio
import uuid

import pytest

from attestream.clock import unix_ms
from devtools.pool import Pool, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas.commands import StartAgent, StopAgent
from schemas.events import EventKind, Standing

BAD = "/usr/bin/evil"


async def test_commands_and_evidence_at_the_same_moment(pool, tenant, bus):
    """Two events of one number have one id, and the stream would drop the second as a repeat: a failure, perhaps."""
    fleet = SoftFleet(bus, [make_agent(f"agent-{number:02}") for number in range(40)])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=60_000, lease_ms=120_000)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)

    async def stop_while_it_fails(agent_id, delay_s):
        fleet.agents[agent_id].run(BAD, digest_of(BAD))
        await fleet.notice(agent_id)
        await asyncio.sleep(delay_s)
        stop = StopAgent(command_id=uuid.uuid4().hex, agent_id=agent_id)
        assert (await tenant.command(agent_id, stop)).ok
        return stop.command_id

    stops = await asyncio.gather(
        *(stop_while_it_fails(agent_id, index * 0.002) for index, agent_id in enumerate(fleet.agents))
    )
    for agent_id, stop in zip(fleet.agents, stops, strict=True):
        events = [event for event in await tenant.events(agent_id) if event.kind is not EventKind.REFUSED]
        assert [event.event_number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].command_id == stop
        assert events[-1].standing is Standing.STOPPED
    await fleet.stop()


@pytest.fixture
def settings():
    from attestream.config import VerifierConfig

    return VerifierConfig(lease_floor_s=30, flush_ms=50, partition_lease_s=2)


async def test_workers_whose_clocks_differ_by_seconds(pool: Pool, tenant, fleet):
    """Nobody is refused, lapses or fails for a clock: not at a takeover, and not between worker and broker."""
    await pool.start("ahead", lambda: unix_ms() + 3000)
    assert (await tenant.push("base", allowing("boot_aggregate", "/usr/bin/ls"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    await pool.cut("ahead")
    behind = await pool.start("behind", lambda: unix_ms() - 3000)
    await eventually(lambda: behind.status().agents == 3)
    fleet.agents["agent-0"].run(BAD, digest_of(BAD))
    fleet.agents["agent-1"].run("/usr/bin/ls", digest_of("/usr/bin/ls"))
    await asyncio.gather(*(fleet.notice(agent_id) for agent_id in fleet.agents))
    await tenant.becomes("agent-0", Standing.FAILED)
    await eventually(lambda: behind.attester("agent-1").state.ima_entries == 2)
    for agent_id, last in (("agent-0", [EventKind.FAILED]), ("agent-1", []), ("agent-2", [])):
        kinds = [event.kind for event in await tenant.events(agent_id)]
        assert kinds == [EventKind.ADDED, EventKind.TRUSTED, *last]
    start = StartAgent(command_id=uuid.uuid4().hex, agent_id="agent-2")
    assert (await tenant.command("agent-2", start)).ok
