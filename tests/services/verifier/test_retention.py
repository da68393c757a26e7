"""A record that keeps events for a shorter time than agents stand as they stand."""

import pytest

from attestream.bus import jetstream
from attestream.bus.topology import ensure_topology
from devtools.pool import allowing, digest_of, eventually
from schemas.events import EventKind, Standing

AGE_NS = 10**9
BAD = "/usr/bin/evil"


@pytest.fixture
async def short(bus, pool, tenant, fleet):
    """Agents whose first events, and whose owner's fences, the record has forgotten."""
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=60_000)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    fleet.agents["agent-1"].run(BAD, digest_of(BAD))
    await tenant.becomes("agent-1", Standing.FAILED)
    config = (await jetstream.call(bus, "STREAM.INFO.EVENTS"))["config"]
    await jetstream.call(bus, "STREAM.UPDATE.EVENTS", config | {"max_age": AGE_NS, "duplicate_window": AGE_NS})
    await eventually(lambda: forgotten(tenant), 20)
    await ensure_topology(bus, ages={"EVENTS": 0})


async def forgotten(tenant):
    return not await tenant.events("agent-0") and not await tenant.events("agent-1")


async def test_an_owner_whose_fences_are_forgotten_goes_on(pool, tenant, fleet, short):
    fleet.agents["agent-0"].run(BAD, digest_of(BAD))
    await tenant.becomes("agent-0", Standing.FAILED, 20)
    assert [event.kind for event in await tenant.events("agent-0")] == [EventKind.FAILED]


async def test_the_next_owner_knows_a_standing_that_no_event_tells_of_any_more(pool, tenant, fleet, short):
    await pool.stop("one")
    two = await pool.start("two")
    await eventually(lambda: all(two.attester(agent_id) is not None for agent_id in fleet.agents), 20)
    assert {agent_id: two.attester(agent_id).standing for agent_id in fleet.agents} == {
        "agent-0": Standing.TRUSTED,
        "agent-1": Standing.FAILED,
        "agent-2": Standing.TRUSTED,
    }
    answered = fleet.answered
    await eventually(lambda: fleet.answered > answered + 6, 20)
    assert await tenant.standing("agent-1") is Standing.FAILED
    # Nobody has become anything: it is as it was.
    assert [event for agent_id in fleet.agents for event in await tenant.events(agent_id)] == []
