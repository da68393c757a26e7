"""Agents that the record knows and a database from an older backup does not."""

import uuid

from sqlalchemy import text

from attestream.client import standing
from attestream.client.connection import Client
from devtools.pool import allowing, eventually
from schemas.commands import DeleteAgent
from schemas.events import EventKind, Standing


async def test_they_are_named_until_they_are_added_again(pool, tenant, fleet, bus, monkeypatch):
    monkeypatch.setattr(standing, "SETTLED_MS", -60_000)
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=60_000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    client = Client(bus)
    assert (await client.fleet(timeout_s=1)).forgotten == []
    await pool.stop("one")
    async with pool.engine.begin() as connection:
        await connection.execute(text("DELETE FROM verifier_attesters WHERE agent_id <> 'agent-0'"))
        await connection.execute(text("DELETE FROM verifier_snapshots"))
    two = await pool.start("two")
    await eventually(lambda: two.attester("agent-0"))
    assert (await client.fleet(timeout_s=1)).forgotten == ["agent-1", "agent-2"]

    assert (await tenant.add("agent-1", interval_ms=300, lease_ms=60_000)).ok
    assert (await client.fleet(timeout_s=1)).forgotten == ["agent-2"]
    assert (await tenant.add("agent-2", interval_ms=300, lease_ms=60_000)).ok
    await tenant.becomes("agent-2", Standing.TRUSTED)
    assert (await tenant.command("agent-2", DeleteAgent(command_id=uuid.uuid4().hex, agent_id="agent-2"))).ok
    assert (await client.fleet(timeout_s=1)).forgotten == []
    assert [event.kind for event in await tenant.events("agent-2")].count(EventKind.ADDED) == 2
