"""Where agents are challenged to answer."""

from devtools.pool import allowing, eventually
from schemas.events import Standing


async def test_an_agent_answers_at_one_place_while_it_is_on_time(pool, tenant, fleet):
    """The server remembers each place for each connection. A late answer comes to a place where none is awaited any more."""
    heard = []

    async def note(agent, reply):
        if agent.agent_id == "agent-0":
            heard.append(reply)

    fleet.asked = note
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("agent-0", interval_ms=200, lease_ms=30_000)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    agent = worker.attester("agent-0")

    await eventually(lambda: len(heard) > 4 and len(set(heard[-4:])) == 1)
    fleet.silent.add("agent-0")
    await eventually(lambda: agent.missed)
    fleet.silent.clear()
    before = set(heard)
    await eventually(lambda: not agent.missed)

    assert set(heard) - before
