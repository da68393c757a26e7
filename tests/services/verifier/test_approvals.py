"""Two people for a policy, and people who have left: what a worker does with the commands of each."""

import uuid

import msgspec
import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.stored import last_messages
from attestream.bus.trust import Trust
from attestream.clock import unix_ms
from attestream.errors import UnapprovedPolicyError
from attestream.signing import TrustedKeys
from attestream.trust import roster as rosters
from devtools.pool import Pool, Tenant, allowing, eventually
from devtools.roster_keys import RosterKeys
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.commands import (
    AddAgent,
    ApprovePolicy,
    Attestation,
    Outcome,
    PolicyRecord,
    PolicyState,
    PublishPolicy,
    RejectPolicy,
)
from schemas.events import Event, EventKind
from schemas.roles import Role
from services.verifier.policies import Policies

ONE, TWO, THREE = (allowing("boot_aggregate", *paths) for paths in ((), ("/usr/bin/ls",), ("/usr/bin/cat",)))


@pytest.fixture
async def keys(bus, tmp_path):
    """Paul and Petra write policies; two people are needed."""
    made = RosterKeys(tmp_path / "keys")
    made.add("petra", Role.POLICY_AUTHOR)
    made.roster = rosters.require_approvals(made.roster, 2, unix_ms())
    await made.publish(bus)
    return made


@pytest.fixture
async def enter(nats_server, keys):
    """Connect somebody of the roster, by default with the newest key."""
    made = []

    async def connected(name, signer=None):
        one = await connect(BusSettings(urls=[nats_server.url], name=name))
        made.append(one)
        trust = Trust(TrustedKeys.from_pems([keys.root.public_pem]), signer or keys.signers[name])
        await trust.start(one)
        return Tenant(one)

    yield connected
    for each in made:
        await each.close()


@pytest.fixture
async def pool(nats_server, tmp_path, settings, keys):
    made = Pool(nats_server.url, tmp_path, settings, trust=lambda: keys.trust("verifier"))
    yield made
    await made.close()


async def records(bus):
    found = await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("web"))
    return {record.version: record for record in (decode(entry.value, PolicyRecord) for entry in found.values())}


async def decide(tenant, kind, version, digest=None, **more):
    digest = (await records(tenant.bus))[version].digest if digest is None else digest
    return await tenant.command("web", kind(command_id=uuid.uuid4().hex, name="web", version=version, digest=digest, **more))


async def told(bus, kind, name="web"):
    found = await last_messages(bus, topology.EVENTS.name, [subjects.event(kind, name)])
    return decode(found[0].data, Event) if found else None


async def test_a_version_is_used_once_somebody_else_has_approved_it(bus, pool, enter, keys):
    await pool.start("one")
    policies = Policies((await enter("verifier")).bus, unix_ms)
    paul, petra, olga = await enter("paul"), await enter("petra"), await enter("olga")
    assert (await paul.push("web", ONE)).detail == "web@1 proposed"
    assert (await told(bus, EventKind.POLICY_PROPOSED)).actor == "paul"
    assert await told(bus, EventKind.POLICY_PUBLISHED) is None
    for reference in ("web", "web@1"):
        added = await olga.add("agent", reference)
        assert (added.ok, added.code) == (False, "policy-unapproved")

    assert (await decide(olga, ApprovePolicy, 1)).code == "forbidden"
    assert (await decide(petra, ApprovePolicy, 1)).detail == "web@1"
    approved = (await records(bus))[1]
    assert (approved.actor, approved.state, approved.decision.actor) == ("paul", PolicyState.APPROVED, "petra")
    event = await told(bus, EventKind.POLICY_APPROVED)
    assert (event.policy, event.actor, event.actor_key) == ("web@1", "petra", keys.signers["petra"].key_id)
    assert (await policies.find("web"))[0] == "web@1"

    # A newer proposal changes nothing for those who follow the name.
    await paul.push("web", TWO)
    assert (await policies.find("web"))[0] == "web@1"
    with pytest.raises(UnapprovedPolicyError):
        await policies.find("web@2")
    assert (await decide(petra, ApprovePolicy, 2)).ok
    assert (await policies.find("web"))[0] == "web@2"
    assert (await decide(petra, ApprovePolicy, 2)).code == "refused"


async def test_an_author_can_not_approve_under_any_key(bus, pool, enter, keys):
    await pool.start("one")
    old = keys.signers["paul"]
    keys.rotate("paul")
    await keys.publish(bus)
    assert (await (await enter("paul", old)).push("web", ONE)).ok
    for signer in (old, keys.signers["paul"]):
        refused = await decide(await enter("paul", signer), ApprovePolicy, 1)
        assert (refused.ok, refused.code) == (False, "forbidden")
        assert (await told(bus, EventKind.FORBIDDEN)).actor_key == signer.key_id
    assert (await records(bus))[1].state is PolicyState.PROPOSED
    assert (await decide(await enter("alice"), ApprovePolicy, 1)).ok


async def test_only_the_document_that_was_looked_at_is_approved(bus, pool, enter):
    await pool.start("one")
    paul, petra = await enter("paul"), await enter("petra")
    await paul.push("web", ONE)
    await paul.push("web", TWO)
    other = (await records(bus))[1].digest
    assert (await decide(petra, ApprovePolicy, 2, other)).code == "policy-invalid"
    assert (await decide(petra, ApprovePolicy, 3, other)).code == "policy-unknown"
    assert all(record.state is PolicyState.PROPOSED for record in (await records(bus)).values())


async def test_a_rejected_version_stays_rejected(bus, pool, enter):
    await pool.start("one")
    paul, petra = await enter("paul"), await enter("petra")
    await paul.push("web", ONE)
    assert (await decide(petra, RejectPolicy, 1, reason="too wide" + "." * 500)).ok
    event = await told(bus, EventKind.POLICY_REJECTED)
    assert (event.policy, event.actor, event.detail[:8], len(event.detail)) == ("web@1", "petra", "too wide", 200)
    refused = await decide(petra, ApprovePolicy, 1)
    assert (refused.ok, refused.code) == (False, "refused")
    # The same document again is a new proposal; its author may take it back.
    assert (await paul.push("web", ONE)).detail == "web@2 proposed"
    assert (await decide(paul, RejectPolicy, 2)).ok
    assert [record.state for record in (await records(bus)).values()] == [PolicyState.REJECTED] * 2


async def test_an_approval_that_is_played_again_changes_nothing(bus, pool, enter):
    await pool.start("one")
    paul, petra = await enter("paul"), await enter("petra")
    await paul.push("web", ONE)
    digest = (await records(bus))[1].digest
    command = ApprovePolicy(command_id=uuid.uuid4().hex, name="web", version=1, digest=digest)
    data, subject = encode(command), subjects.command("web")
    headers = petra.bus.trust.sign(subject, data)

    async def send():
        inbox = bus.nc.new_inbox()
        subscription = await bus.nc.subscribe(inbox)
        sent = headers | {subjects.HEADER_REPLY_TO: inbox}
        await bus.publish_durable(subject, data, message_id=uuid.uuid4().hex, headers=sent)
        return decode((await subscription.next_msg(timeout=10)).data, Outcome)

    assert (await send()).ok
    before = await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("web"))
    await paul.push("web", TWO)
    assert (await send()).ok
    after = await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("web"))
    assert after["policy.web.1"].revision == before["policy.web.1"].revision
    assert (await records(bus))[2].state is PolicyState.PROPOSED
    # Nor does it count for another subject, or by another name.
    await bus.publish_durable(subjects.command("other"), data, message_id=uuid.uuid4().hex, headers=headers)
    assert (await told(bus, EventKind.POLICY_APPROVED)).policy == "web@1"


async def test_two_people_are_needed_as_soon_as_the_roster_says_so(bus, pool, enter, keys):
    keys.roster = rosters.require_approvals(keys.roster, 1, unix_ms())
    await keys.publish(bus)
    await pool.start("one")
    paul = await enter("paul")
    assert (await paul.push("web", ONE)).detail == "web@1"
    assert (await told(bus, EventKind.POLICY_PUBLISHED)).policy == "web@1"
    keys.roster = rosters.require_approvals(keys.roster, 2, unix_ms())
    await keys.publish(bus)
    # What the worker knows of the roster is a second old at most.
    await paul.bus.trust.refresh()
    outcomes = [await paul.push("web", document) for document in (TWO, THREE)]
    while not outcomes[-1].detail.endswith(" proposed"):
        assert len(outcomes) < 1000
        outcomes.append(await paul.push("web", allowing("boot_aggregate", f"/usr/bin/{len(outcomes)}")))
    assert (await records(bus))[1].state is PolicyState.APPROVED


async def test_who_has_left_gives_no_orders_any_more(bus, pool, enter, keys):
    """A command that was signed and stored while its author counted, executed after that."""
    registrar = await enter("registrar")
    fleet = SoftFleet(registrar.bus, [])
    await fleet.serve_identities()
    olga = await enter("olga")
    data = encode(AddAgent(command_id=uuid.uuid4().hex, agent_id="agent", attestation=Attestation(policy="web")))
    subject = subjects.command("agent")
    await olga.bus.publish_durable(subject, data, message_id="1", headers=olga.bus.trust.sign(subject, data))
    # Not in the same millisecond: then it would be taken for signed afterwards.
    keys.roster = rosters.revoke_key(keys.roster, keys.signers["olga"].key_id, unix_ms() + 1)
    await keys.publish(bus)
    await pool.start("one")

    async def refused(name):
        event = await told(bus, EventKind.FORBIDDEN, "agent")
        return event is not None and event.actor == name and event

    assert "revoked" in (await eventually(lambda: refused("olga"))).detail


async def test_who_has_an_end_gives_no_orders_after_it(bus, pool, enter, keys):
    signer = keys.add("tim", Role.POLICY_AUTHOR)
    ending = [
        rosters.entry(signer.public_pem, Role.POLICY_AUTHOR, "tim", not_after=unix_ms() + 600_000)
        if key.name == "tim"
        else key
        for key in keys.roster.keys
    ]
    keys.roster = msgspec.structs.replace(keys.roster, keys=ending, version=keys.roster.version + 1)
    await keys.publish(bus)
    tim = await enter("tim")
    await pool.start("one", clock=lambda: unix_ms() + 3_600_000)
    refused = await tim.push("web", ONE)
    assert (refused.ok, refused.code) == (False, "forbidden")
    assert not await records(bus)
    assert (await (await enter("paul")).push("web", ONE)).ok


async def test_publishing_is_one_command_with_one_effect(bus, pool, enter):
    await pool.start("one")
    paul = await enter("paul")
    await paul.push("web", ONE)
    digest = (await records(bus))[1].digest
    command = PublishPolicy(command_id=uuid.uuid4().hex, name="web", digest=digest)
    assert (await paul.command("web", command)).detail == "web@1 proposed"
    assert len(await records(bus)) == 1
