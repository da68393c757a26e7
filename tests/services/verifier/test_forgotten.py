"""Agents that the record knows and a database from an older backup does not."""

import asyncio
import subprocess
import sys
import uuid

import pytest
import sqlalchemy as sa

from attestream.client import forgotten
from attestream.client.connection import Client
from devtools.pool import allowing, digest_of, eventually
from schemas import subjects
from schemas.commands import Attestation, DeleteAgent, StopAgent, UpdateAgent
from schemas.events import Event, EventKind, Standing
from services.verifier.store import ATTESTERS, SNAPSHOTS

CLI = """
import sys
from attestream.client import forgotten
forgotten.SETTLED_MS = -60_000
from attestream.cli.main import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Agents count as forgotten from the moment on at which they are."""
    monkeypatch.setattr(forgotten, "SETTLED_MS", -60_000)


@pytest.fixture
def cli(nats_server):
    """Runs the command line beside the workers of the test."""

    async def run(*arguments):
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CLI, "--url", nats_server.url, *arguments],
            env={"ATTESTREAM_TRUST_UNSIGNED": "true"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


async def backup(pool):
    async with pool.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(sa.select(ATTESTERS))).mappings()]


async def restored(pool, rows):
    """Start another worker on a database that holds ``rows`` again and nothing that came after them."""
    await pool.stop("one")
    async with pool.engine.begin() as connection:
        for table in (ATTESTERS, SNAPSHOTS):
            await connection.execute(sa.delete(table))
        if rows:
            await connection.execute(sa.insert(ATTESTERS), rows)
    two = await pool.start("two")
    await eventually(lambda: two.status().partitions)
    return two


async def test_they_are_named_until_they_are_added_again(pool, tenant, fleet, bus):
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("agent-0", interval_ms=300, lease_ms=60_000)).ok
    rows = await backup(pool)
    for agent_id in ("agent-1", "agent-2"):
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=60_000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    client = Client(bus)
    assert (await client.fleet(timeout_s=1)).forgotten == []
    two = await restored(pool, rows)
    await eventually(lambda: two.attester("agent-0"))
    assert (await client.fleet(timeout_s=1)).forgotten == ["agent-1", "agent-2"]

    assert (await tenant.add("agent-1", interval_ms=300, lease_ms=60_000)).ok
    assert (await client.fleet(timeout_s=1)).forgotten == ["agent-2"]
    assert (await tenant.add("agent-2", interval_ms=300, lease_ms=60_000)).ok
    await tenant.becomes("agent-2", Standing.TRUSTED)
    assert (await tenant.command("agent-2", DeleteAgent(command_id=uuid.uuid4().hex, agent_id="agent-2"))).ok
    assert (await client.fleet(timeout_s=1)).forgotten == []
    assert [event.kind for event in await tenant.events("agent-2")].count(EventKind.ADDED) == 2


async def test_a_record_from_before_events_told_of_intervals_says_so(bus):
    def event(number, kind, standing, **more):
        return Event(
            id=f"old:{number}", kind=kind, agent_id="old", at=number, event_number=number, standing=standing, **more
        )

    told = []
    for one in (
        event(1, EventKind.ADDED, Standing.PENDING, policy="base@1"),
        event(2, EventKind.TRUSTED, Standing.TRUSTED, policy="base@1"),
        event(3, EventKind.UPDATED, Standing.PENDING, policy="base@2", interval_ms=777, lease_ms=8000),
        event(4, EventKind.TRUSTED, Standing.TRUSTED, policy="base@2"),
        event(5, EventKind.ADDED, Standing.PENDING, policy="base@3"),
    ):
        await bus.publish_durable(subjects.event(one.kind, "old"), one, message_id=one.id)
        told += await forgotten.told(bus, ["old", "nobody"])
    assert [each.untold for each in told] == [True, True, False, False, True]
    assert [each.standing for each in told][3:] == [Standing.TRUSTED, Standing.PENDING]
    assert told[3].attestation == Attestation(policy="base@2", interval_ms=777, lease_ms=8000)
    assert told[4].attestation == Attestation(policy="base@3")


async def test_they_are_rebuilt_from_the_record_and_trusted_only_for_what_they_show_then(pool, tenant, fleet, cli):
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.push("other", allowing("boot_aggregate", "/usr/bin/new"))).ok
    rows = await backup(pool)
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=60_000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    other = UpdateAgent(
        command_id=uuid.uuid4().hex,
        agent_id="agent-0",
        attestation=Attestation(policy="other", interval_ms=400, lease_ms=50_000),
    )
    assert (await tenant.command("agent-0", other)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    fleet.agents["agent-1"].run("/usr/bin/intruder", digest_of("/usr/bin/intruder"))
    await tenant.becomes("agent-1", Standing.FAILED)
    assert (await tenant.command("agent-2", StopAgent(command_id=uuid.uuid4().hex, agent_id="agent-2"))).ok
    two = await restored(pool, rows)

    fleet.silent |= fleet.agents.keys()
    done = await cli("agents", "rebuild", "--all")
    assert (done.returncode, done.stdout) == (1, "rebuilt agent-0\n"), done.stderr
    assert "agent-1 is left as it is: it had failed" in done.stderr
    assert "agent-2 is left as it is: it was stopped" in done.stderr
    rebuilt = two.attester("agent-0")
    assert (rebuilt.policy_name, rebuilt.interval_ms, rebuilt.lease_ms) == ("other@1", 400, 50_000)
    assert await tenant.standing("agent-0") is Standing.PENDING
    assert not rebuilt.state.ima_entries
    fleet.silent.clear()
    await tenant.becomes("agent-0", Standing.TRUSTED)
    assert two.attester("agent-1") is None

    done = await cli("agents", "rebuild", "agent-0", "agent-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "agent-0 is left as it is: a verifier has it" in done.stderr
