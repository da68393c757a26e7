"""A client chooses the ids of its commands: one that it uses again must neither hide a command from the record, nor make
another life of an agent look like an earlier one."""

import uuid

import pytest

from attestream.config import VerifierConfig
from devtools.pool import Pool, Tenant, allowing, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects
from schemas.base import decode
from schemas.commands import AddAgent, Attestation, DeleteAgent, Outcome, UpdateAgent
from schemas.events import EventKind, Standing

AGENT, ID = "agent-0", "the-same-id-for-every-command"
SETTINGS = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def alice(as_holder):
    return Tenant(await as_holder("alice"))


@pytest.fixture
async def pool(nats_server, bus, tmp_path, keys, alice, as_holder):
    made = Pool(nats_server.url, tmp_path, SETTINGS, trust=lambda: keys.trust("verifier"))
    fleet = SoftFleet(await as_holder("registrar"), [make_agent(AGENT)])
    await fleet.start()
    await fleet.serve_identities()
    await made.start("one")
    await alice.push("base", allowing("boot_aggregate"))
    yield made
    await fleet.stop()
    await made.close()


async def give(tenant, command):
    """Publish a command under another message id than its own, so that the stream takes it for a new one."""
    inbox = tenant.bus.nc.new_inbox()
    subscription = await tenant.bus.nc.subscribe(inbox)
    await tenant.bus.publish_durable(
        subjects.command(AGENT),
        command,
        message_id=uuid.uuid4().hex,
        headers={subjects.HEADER_REPLY_TO: inbox},
        sign=True,
    )
    outcome = decode((await subscription.next_msg(timeout=20)).data, Outcome)
    await subscription.unsubscribe()
    return outcome


async def test_two_lives_of_an_agent_are_two_on_the_record(pool, alice):
    attestation = Attestation(policy="base", interval_ms=300)
    for life in (1, 2):
        assert (await give(alice, AddAgent(command_id=ID, agent_id=AGENT, attestation=attestation))).ok
        await alice.becomes(AGENT, Standing.TRUSTED)

        async def complete(life=life):
            added = [event for event in await alice.events(AGENT) if event.kind is EventKind.ADDED]
            return len({event.id for event in added}) == life

        await eventually(complete)
        assert (await give(alice, DeleteAgent(command_id=f"delete-{life}", agent_id=AGENT))).ok


async def test_no_change_escapes_the_record_by_the_id_of_the_last_one(pool, alice):
    add = AddAgent(command_id=ID, agent_id=AGENT, attestation=Attestation(policy="base", interval_ms=300))
    assert (await give(alice, add)).ok
    seldom = Attestation(policy="base", interval_ms=80_000_000)
    assert (await give(alice, UpdateAgent(command_id=ID, agent_id=AGENT, attestation=seldom))).ok

    async def told():
        return any(event.kind is EventKind.UPDATED for event in await alice.events(AGENT))

    await eventually(told)
