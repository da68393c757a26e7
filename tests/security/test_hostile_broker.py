"""The bus in hostile hands: whoever has every right on it forges, replays and redirects, and changes nothing."""

import itertools
import time
import uuid

import msgspec
import pytest

from attestream.bus import keyvalue, objects
from attestream.bus.jetstream import call
from attestream.bus.stored import get_batch, last_messages
from attestream.client import PendingCommandError
from attestream.client import connect as connect_client
from attestream.client.connection import Client
from attestream.config import NotifierConfig, VerifierConfig
from attestream.errors import SignatureError
from devtools.pool import Pool, Tenant, allowing, eventually, make_agent
from devtools.sample_result import sample_result
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.commands import AddAgent, Attestation, DeleteAgent, Outcome, PolicyRecord, PublishPolicy, StartAgent, StopAgent
from schemas.events import DeadLetter, Event, EventKind, Revocation, Standing
from services.notifier.service import notifying

AGENT = "agent-0"
SETTINGS = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def alice(as_holder):
    return Tenant(await as_holder("alice"))


@pytest.fixture
async def pool(nats_server, tmp_path, keys):
    made = Pool(nats_server.url, tmp_path, SETTINGS, trust=lambda: keys.trust("verifier"))
    yield made
    await made.close()


@pytest.fixture
async def attested(pool, alice, as_holder):
    """One agent, trusted by one worker."""
    fleet = SoftFleet(await as_holder("registrar"), [make_agent(AGENT)])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    await alice.push("base", allowing("boot_aggregate"))
    assert (await alice.add(AGENT, interval_ms=300)).ok
    await alice.becomes(AGENT, Standing.TRUSTED)
    yield fleet
    await fleet.stop()


async def dead(bus, stream):
    found = await get_batch(bus, topology.DEAD.name, {"seq": 1, "batch": 100, "next_by_subj": subjects.dead(stream)})
    return [decode(message.data, DeadLetter) for message in found.messages]


async def outcome(tenant, command, agent_id=AGENT):
    return await tenant.command(agent_id, command)


def an_id():
    return uuid.uuid4().hex


async def test_everything_that_a_verifier_says_is_signed(bus, attested, alice):
    found = await last_messages(bus, topology.EVENTS.name, [subjects.events_of(AGENT), subjects.events_of("base")])
    found += await last_messages(bus, topology.RESULTS.name, [subjects.result(AGENT)])
    entries = await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("base"))
    assert len(found) >= 4
    for each in (*found, *entries.values()):
        assert (await alice.bus.trust.author_of(each)).name == "verifier"


async def test_the_record_names_who_asked_whatever_the_command_says(bus, attested, alice, keys):
    command = StopAgent(command_id=an_id(), agent_id=AGENT, actor="somebody else")
    assert (await outcome(alice, command)).ok
    stopped = next(event for event in await alice.events(AGENT) if event.kind is EventKind.STOPPED)
    assert (stopped.actor, stopped.actor_key) == ("alice", keys.signers["alice"].key_id)
    (entry,) = (await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("base"))).values()
    assert decode(entry.value, PolicyRecord).actor == "alice"


@pytest.mark.parametrize(
    ("name", "agent_command", "policy_command"),
    [("alice", True, True), ("olga", True, False), ("paul", False, True), ("otto", False, False)],
)
async def test_commands_are_authorised_by_the_role_of_their_author(
    bus, attested, alice, as_holder, name, agent_command, policy_command
):
    tenant = Tenant(await as_holder(name))
    stop = StopAgent(command_id=an_id(), agent_id=AGENT)
    digest = await objects.put(bus, topology.POLICIES, b'{"format": "attestream-policy/1", "bank": "sha256"}')
    publish = PublishPolicy(command_id=an_id(), name="base", digest=digest)
    for command, subject, allowed in ((stop, AGENT, agent_command), (publish, "base", policy_command)):
        result = await tenant.command(subject, command)
        if allowed:
            assert result.code != "forbidden"
        else:
            assert (result.ok, result.code) == (False, "forbidden")
            refused = [event for event in await alice.events(subject) if event.kind is EventKind.FORBIDDEN]
            assert [(event.actor, event.command_id) for event in refused] == [(name, command.command_id)]
    events = await alice.events(AGENT)
    assert any(event.kind is EventKind.STOPPED for event in events) is agent_command


async def test_an_unsigned_command_is_refused_loudly_and_changes_nothing(bus, attested, alice):
    result = await outcome(Tenant(bus), StopAgent(command_id=an_id(), agent_id=AGENT))
    assert (result.ok, result.code) == (False, "signature-invalid")
    (letter,) = await eventually(lambda: dead(bus, topology.COMMANDS.name))
    assert letter.code == "signature-invalid"
    assert all(event.kind is not EventKind.STOPPED for event in await alice.events(AGENT))


async def test_a_verifier_can_not_give_commands(attested, as_holder, alice):
    result = await outcome(Tenant(await as_holder("verifier")), StopAgent(command_id=an_id(), agent_id=AGENT))
    assert result.code == "forbidden"
    assert all(event.kind is not EventKind.STOPPED for event in await alice.events(AGENT))


async def test_a_command_can_not_be_redirected_to_another_agent(bus, attested, alice):
    command = StopAgent(command_id=an_id(), agent_id=AGENT)
    headers = alice.bus.trust.sign(subjects.command("agent-1"), encode(command))
    await bus.publish_durable(subjects.command(AGENT), command, message_id=an_id(), headers=headers)
    (letter,) = await eventually(lambda: dead(bus, topology.COMMANDS.name))
    assert letter.code == "signature-invalid"
    assert all(event.kind is not EventKind.STOPPED for event in await alice.events(AGENT))


async def test_a_replayed_command_changes_nothing(bus, attested, alice):
    stop = StopAgent(command_id=an_id(), agent_id=AGENT)
    headers = alice.bus.trust.sign(subjects.command(AGENT), encode(stop))
    await bus.publish_durable(subjects.command(AGENT), stop, message_id=an_id(), headers=headers)

    async def times(kind):
        return sum(event.kind is kind for event in await alice.events(AGENT))

    async def stopped():
        return await times(EventKind.STOPPED) == 1

    await eventually(stopped)
    assert (await outcome(alice, StartAgent(command_id=an_id(), agent_id=AGENT))).ok
    await bus.publish_durable(subjects.command(AGENT), stop, message_id=an_id(), headers=headers)

    async def refused():
        return await times(EventKind.FORBIDDEN)

    await eventually(refused)
    assert await times(EventKind.STOPPED) == 1


async def test_an_agent_that_was_deleted_does_not_come_back_by_a_replay(bus, attested, alice):
    attestation = Attestation(policy="base", interval_ms=300)
    assert (await outcome(alice, DeleteAgent(command_id=an_id(), agent_id=AGENT))).ok
    add = AddAgent(command_id=an_id(), agent_id=AGENT, attestation=attestation)
    headers = alice.bus.trust.sign(subjects.command(AGENT), encode(add))
    await bus.publish_durable(subjects.command(AGENT), add, message_id=an_id(), headers=headers)
    await alice.becomes(AGENT, Standing.TRUSTED)
    assert (await outcome(alice, DeleteAgent(command_id=an_id(), agent_id=AGENT))).ok
    await bus.publish_durable(subjects.command(AGENT), add, message_id=an_id(), headers=headers)

    async def refused():
        return [event for event in await alice.events(AGENT) if event.kind is EventKind.FORBIDDEN]

    await eventually(refused)
    assert sum(event.kind is EventKind.ADDED for event in await alice.events(AGENT)) == 2


async def test_an_agent_does_not_come_back_by_a_replay_when_the_bus_hides_that_it_was_deleted(bus, attested, alice, pool):
    attestation = Attestation(policy="base", interval_ms=300)
    assert (await outcome(alice, DeleteAgent(command_id=an_id(), agent_id=AGENT))).ok
    add = AddAgent(command_id=an_id(), agent_id=AGENT, attestation=attestation)
    headers = alice.bus.trust.sign(subjects.command(AGENT), encode(add))
    await bus.publish_durable(subjects.command(AGENT), add, message_id=an_id(), headers=headers)
    await alice.becomes(AGENT, Standing.TRUSTED)
    assert (await outcome(alice, DeleteAgent(command_id=an_id(), agent_id=AGENT))).ok
    for hidden in await last_messages(bus, topology.EVENTS.name, [subjects.event(EventKind.DELETED, AGENT)]):
        await call(bus, f"STREAM.PURGE.{topology.EVENTS.name}", {"filter": hidden.subject})
    await bus.publish_durable(subjects.command(AGENT), add, message_id=an_id(), headers=headers)

    async def refused():
        return [event for event in await alice.events(AGENT) if event.kind is EventKind.FORBIDDEN]

    (event,) = await eventually(refused)
    assert event.detail.startswith("superseded")
    assert sum(event.kind is EventKind.ADDED for event in await alice.events(AGENT)) == 2
    # Whoever may add it does so with a command of today.
    assert (await alice.add(AGENT, interval_ms=300)).ok


async def test_who_takes_over_reads_back_only_what_a_verifier_has_signed(bus, attested, alice, pool, keys):
    """Without signatures, one message would make a failed agent trusted as soon as its worker dies."""
    assert (await outcome(alice, StopAgent(command_id=an_id(), agent_id=AGENT))).ok
    genuine = (await alice.events(AGENT))[-1]
    incarnation = genuine.id.split(":")[1]
    forged = Event(
        id=f"{AGENT}:{incarnation}:{genuine.event_number + 1}",
        kind=EventKind.TRUSTED,
        agent_id=AGENT,
        at=genuine.at + 1,
        event_number=genuine.event_number + 1,
        standing=Standing.TRUSTED,
        policy="base@1",
    )
    await bus.publish_durable(subjects.event(forged.kind, AGENT), forged, message_id=an_id())
    registrar = keys.trust("registrar")
    registrar.take(keys.signed)
    deleted = encode(msgspec.structs.replace(forged, kind=EventKind.DELETED))
    subject = subjects.event(EventKind.DELETED, AGENT)
    await bus.publish_durable(subject, deleted, message_id=an_id(), headers=registrar.sign(subject, deleted))
    await pool.stop("one")
    worker = await pool.start("two")
    await eventually(lambda: worker.attester(AGENT))
    held = worker.attester(AGENT)
    assert (held.standing, held.event_number) == (Standing.STOPPED, genuine.event_number)


async def test_a_forged_identity_is_not_taken_for_the_registrars(bus, pool, alice, as_holder):
    """CVE-2022-1053: another AK put in between registrar and verifier."""
    fleet = SoftFleet(bus, [make_agent(AGENT)])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    await alice.push("base", allowing("boot_aggregate"))
    result = await alice.add(AGENT)
    assert (result.ok, result.code) == (False, "signature-invalid")
    assert await alice.events(AGENT) == []
    await fleet.stop()


async def test_a_policy_record_counts_under_its_own_name_and_version(bus, attested, alice):
    (entry,) = (await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("base"))).values()
    old = f"$KV.{topology.CLUSTER.name}.{topology.policy_key('base', 7)}"
    headers = {subjects.HEADER_SIGNATURE: entry.headers[subjects.HEADER_SIGNATURE]}
    await bus.publish_durable(old, entry.value, message_id=an_id(), headers=headers)
    attestation = Attestation(policy="base@7", interval_ms=300)
    refused = await outcome(alice, AddAgent(command_id=an_id(), agent_id="agent-9", attestation=attestation), "agent-9")
    assert (refused.ok, refused.code) == (False, "signature-invalid")
    with pytest.raises(SignatureError):
        await Client(alice.bus).policies()
    document = allowing("boot_aggregate", "/usr/bin/new")
    assert (await alice.push("base", document)).detail == "base@8"


async def test_the_notifier_revokes_nobody_for_an_event_that_no_verifier_has_signed(bus, keys, as_holder):
    notifier = await as_holder("notifier")
    events = [
        Event(id=f"{name}:1", kind=EventKind.FAILED, agent_id=name, at=1, standing=Standing.FAILED)
        for name in ("bare", "by")
    ]
    registrar = keys.trust("registrar")
    registrar.take(keys.signed)
    async with notifying(notifier, NotifierConfig(), keys.signers["notifier"]):
        for event, trust in zip(events, (None, registrar), strict=True):
            subject = subjects.event(event.kind, event.agent_id)
            headers = trust.sign(subject, encode(event)) if trust else {}
            await bus.publish_durable(subject, event, message_id=event.id, headers=headers)

        async def both():
            return len(await dead(bus, topology.EVENTS.name)) == 2

        await eventually(both)
    assert not await last_messages(bus, topology.REVOCATIONS.name, [subjects.REVOCATIONS])
    assert notifier.trust.rejected == 2


class TestASubscriber:
    """What the SDK gives its user."""

    @pytest.fixture
    async def client(self, nats_server, keys):
        async with connect_client(nats_server.url, trust=keys.trust()) as connected:
            yield connected

    @pytest.fixture
    def verifier(self, keys):
        # Signatures are timed to the millisecond: each here has one of its own.
        ticks = itertools.count(int(time.time() * 1000))
        trust = keys.trust("verifier", clock=lambda: next(ticks))
        trust.take(keys.signed)
        return trust

    @staticmethod
    def result(standing, number, agent_id="a", lease_ms=60_000):
        return sample_result(agent_id, standing, number=number, life_ms=lease_ms)

    async def test_is_given_no_forged_replayed_or_redirected_result(self, bus, client, verifier):
        good, failed = self.result(Standing.TRUSTED, 1), self.result(Standing.FAILED, 2)
        subject = subjects.result("a")
        first = verifier.sign(subject, encode(good))
        rejected = []
        results = client.results(on_rejected=rejected.append)
        await results.start()

        async def put(message, headers, where=subject):
            await bus.publish_durable(where, message, message_id=an_id(), headers=headers)

        await put(good, first)
        assert (await anext(results)).standing is Standing.TRUSTED
        await put(failed, verifier.sign(subject, encode(failed)))
        assert (await anext(results)).standing is Standing.FAILED
        await put(good, {})
        await eventually(lambda: len(rejected) == 1)
        await put(good, first)
        await eventually(lambda: len(rejected) == 2)
        await put(good, first, subjects.result("b"))
        await eventually(lambda: len(rejected) == 3)
        last = self.result(Standing.TRUSTED, 3)
        await put(last, verifier.sign(subject, encode(last)))
        assert (await anext(results)).result == last
        assert {each.error.code for each in rejected} == {"signature-invalid"}

    async def test_is_given_no_forged_event(self, bus, client, verifier):
        rejected = []
        events = client.events(from_start=True, on_rejected=rejected.append)
        event = Event(id="a:x:1", kind=EventKind.TRUSTED, agent_id="a", at=1, event_number=1)
        subject = subjects.event(event.kind, "a")
        await bus.publish_durable(subject, event, message_id="1")
        await bus.publish_durable(subject, event, message_id="2", headers=verifier.sign(subject, encode(event)))
        item = await anext(events)
        assert (item.event, item.author) == (event, "verifier")
        assert [each.sequence for each in rejected] == [item.sequence - 1]

    async def test_is_given_no_revocation_by_another_role_or_under_another_agent(self, bus, client, keys):
        def signed(name, agent_id):
            revocation = Revocation(
                id=f"{agent_id}:1",
                agent_id=agent_id,
                at=1,
                signed_at=int(time.time() * 1000),
                standing=Standing.FAILED,
                enrolment=1,
                policy="p@1",
                findings=[],
            )
            return keys.signers[name].sign(revocation)

        rejected = []
        revocations = client.revocations(on_rejected=rejected.append)
        await bus.publish_durable(subjects.revocation("a"), signed("verifier", "a"), message_id="1")
        await bus.publish_durable(subjects.revocation("b"), signed("notifier", "a"), message_id="2")
        await bus.publish_durable(subjects.revocation("a"), signed("notifier", "a"), message_id="3")
        assert (await anext(revocations)).agent_id == "a"
        assert len(rejected) == 2

    async def test_sees_no_agent_trusted_by_a_forged_result(self, bus, client):
        await bus.publish_durable(subjects.result("a"), self.result(Standing.TRUSTED, 1), message_id="1")
        fleet = await client.fleet(timeout_s=0.3)
        assert (fleet.agents, fleet.rejected) == ([], [subjects.result("a")])
        with pytest.raises(SignatureError):
            await client.agent("a", timeout_s=0.3)

    async def test_is_not_told_that_a_command_was_executed_by_who_did_not(self, bus, nats_server, keys):
        async with connect_client(nats_server.url, trust=keys.trust("alice")) as client:

            async def lie(message):
                inbox = (message.headers or {}).get(subjects.HEADER_REPLY_TO)
                if inbox:
                    lies.append(inbox)
                    await bus.nc.publish(inbox, encode(ok))

            lies, command = [], StopAgent(command_id=an_id(), agent_id="a")
            ok = Outcome(command_id=command.command_id, ok=True)
            await bus.subscribe(subjects.COMMAND_IN, lie)
            await bus.nc.flush()
            with pytest.raises(PendingCommandError):
                await client.command(command, timeout_s=0.5)
            assert lies
            assert client.bus.trust.rejected == 1
