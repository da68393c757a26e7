"""A service in hostile hands, with its key and every right on the bus: what it says beyond its role is not believed, and
nothing of it once its key is revoked."""

import itertools
import time
import uuid

import msgspec
import pytest

from attestream.bus.stored import get_batch
from attestream.client import connect as connect_client
from attestream.client.forgotten import told
from attestream.config import NotifierConfig, VerifierConfig
from attestream.errors import SignatureError
from devtools.pool import Pool, Tenant, allowing, eventually, make_agent
from devtools.sample_result import sample_result
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.attestation import Challenge
from schemas.base import decode, encode
from schemas.events import DeadLetter, Event, EventKind, Revocation, Standing
from services.notifier.service import notifying

SETTINGS = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def client(nats_server, keys):
    async with connect_client(nats_server.url, trust=keys.trust()) as connected:
        yield connected


def signing(keys, name):
    """Return what signs as ``name``, each signature with a time of its own."""
    ticks = itertools.count(int(time.time() * 1000))
    trust = keys.trust(name, clock=lambda: next(ticks))
    trust.take(keys.signed)
    return trust


def result(standing, number):
    return sample_result(standing=standing, number=number)


def revocation(number):
    now = int(time.time() * 1000)
    fields = {"standing": Standing.FAILED, "enrolment": 1, "policy": "p@1", "findings": []}
    return Revocation(id=f"a:{number}", agent_id="a", at=number, signed_at=now, **fields)


def an_id():
    return uuid.uuid4().hex


def evidence_of(agent):
    """Return good evidence for a challenge that nobody has made."""
    now = int(time.time() * 1000)
    return agent.answer(
        Challenge(
            nonce=bytes(32), agent_id=agent.agent_id, seq=9, issued_at=now, banks={"sha256": [10]}, deadline=now + 1000
        )
    )


async def put(bus, trust, subject, message):
    await bus.publish_durable(subject, message, message_id=an_id(), headers=trust.sign(subject, encode(message)))


async def test_a_failure_that_is_written_over_is_not_rebuilt_as_a_good_agent(bus, client, keys):
    """A server keeps the last event of a kind: of one that nobody may have signed, nobody knows what was there before."""
    record, reader = signing(keys, "verifier"), client.bus
    for number, kind, standing in ((1, EventKind.ADDED, Standing.PENDING), (2, EventKind.FAILED, Standing.FAILED)):
        event = Event(id=an_id(), kind=kind, agent_id="a", at=number, event_number=number, standing=standing)
        await put(bus, record, subjects.event(kind, "a"), event)
    assert [each.standing for each in await told(reader, ["a"])] == [Standing.FAILED]

    forged = Event(id=an_id(), kind=EventKind.FAILED, agent_id="a", at=3, event_number=3, standing=Standing.TRUSTED)
    await put(bus, signing(keys, "alice"), subjects.event(EventKind.FAILED, "a"), forged)

    [left] = await told(reader, ["a"])
    assert (left.standing, left.ended) == (Standing.UNKNOWN, True)


@pytest.mark.parametrize("name", ["registrar", "notifier", "alice", "otto"])
async def test_only_a_verifier_says_who_is_trusted(bus, client, keys, name):
    subject = subjects.result("a")
    await put(bus, signing(keys, name), subject, result(Standing.TRUSTED, 1))
    assert (await client.fleet(timeout_s=0.3)).rejected == [subject]
    with pytest.raises(SignatureError):
        await client.agent("a", timeout_s=0.3)


@pytest.mark.parametrize("name", ["registrar", "verifier", "alice"])
async def test_only_a_notifier_revokes(bus, client, keys, name):
    rejected = []
    revocations = client.revocations(on_rejected=rejected.append)
    for number, signer in ((1, keys.signers[name]), (2, keys.signers["notifier"])):
        await bus.publish_durable(subjects.revocation("a"), signer.sign(revocation(number)), message_id=str(number))
    assert (await anext(revocations)).revocation.id == "a:2"
    assert len(rejected) == 1


async def test_a_verifier_whose_key_is_revoked_is_believed_no_more(bus, client, keys):
    """Until then its lies are: a compromised verifier says who is trusted."""
    liar, subject = signing(keys, "verifier"), subjects.result("a")
    await put(bus, liar, subject, result(Standing.TRUSTED, 1))
    assert (await client.agent("a", timeout_s=0.3)).standing is Standing.TRUSTED
    keys.revoke("verifier")
    keys.add("second", "verifier")
    await keys.publish(bus)
    honest = signing(keys, "second")
    # The key of the next verifier is new to the client, which is why it reads the roster again.
    await put(bus, honest, subjects.result("b"), msgspec.structs.replace(result(Standing.TRUSTED, 1), agent_id="b"))
    assert (await client.agent("b", timeout_s=0.3)).standing is Standing.TRUSTED
    await put(bus, signing(keys, "verifier"), subject, result(Standing.TRUSTED, 2))
    with pytest.raises(SignatureError):
        await client.agent("a", timeout_s=0.3)


async def test_a_notifier_whose_key_is_revoked_signs_nothing_that_counts(bus, client, keys):
    keys.revoke("notifier")
    keys.add("second", "notifier")
    await keys.publish(bus)
    rejected = []
    revocations = client.revocations(on_rejected=rejected.append)
    for number, name in ((1, "second"), (2, "notifier"), (3, "second")):
        envelope = keys.signers[name].sign(revocation(number))
        await bus.publish_durable(subjects.revocation("a"), envelope, message_id=str(number))
    # The key of the next notifier is new to the client, which is why it reads the roster again.
    assert [(await anext(revocations)).revocation.id for _ in range(2)] == ["a:1", "a:3"]
    assert len(rejected) == 1


async def test_one_agent_can_not_speak_as_another(bus, nats_server, tmp_path, keys, as_holder):
    """Whoever could write under another agent's subject, as only the broker can: the quote is of another AK. Under its own
    subject, a message that names another agent is put aside."""
    alice = Tenant(await as_holder("alice"))
    fleet = SoftFleet(await as_holder("registrar"), [make_agent(name) for name in ("a", "b")])
    await fleet.start()
    await fleet.serve_identities()
    pool = Pool(nats_server.url, tmp_path, SETTINGS, trust=lambda: keys.trust("verifier"))
    try:
        await pool.start("one")
        await alice.push("base", allowing("boot_aggregate"))
        for name in ("a", "b"):
            assert (await alice.add(name, interval_ms=60_000)).ok
            await alice.becomes(name, Standing.TRUSTED)
        foreign = msgspec.structs.replace(evidence_of(fleet.agents["a"]), agent_id="b")
        await bus.publish_durable(subjects.evidence("a"), foreign, message_id=an_id())

        async def put_aside():
            request = {"seq": 1, "batch": 10, "next_by_subj": subjects.dead(topology.EVIDENCE.name)}
            found = await get_batch(bus, topology.DEAD.name, request)
            return [decode(message.data, DeadLetter) for message in found.messages]

        [letter] = await eventually(put_aside)
        assert letter.code == "malformed"
        assert "was published under" in letter.message
        await bus.publish_durable(subjects.evidence("b"), foreign, message_id=an_id())

        async def refused():
            return [event for event in await alice.events("b") if event.kind is EventKind.REFUSED]

        [event] = await eventually(refused)
        assert event.findings[0].code == "freshness.nonce-invalid"
        for name in ("a", "b"):
            assert await alice.standing(name) is Standing.TRUSTED
    finally:
        await pool.close()
        await fleet.stop()


async def test_a_notifier_is_no_judge(bus, keys, as_holder):
    """A verifier's event is what it signs revocations for; its own events about agents count for nothing."""
    notifier = await as_holder("notifier")
    event = Event(id="a:1", kind=EventKind.FAILED, agent_id="a", at=1, standing=Standing.FAILED)
    async with notifying(notifier, NotifierConfig(), keys.signers["notifier"]):
        await put(bus, signing(keys, "notifier"), subjects.event(event.kind, "a"), event)
        await eventually(lambda: notifier.trust.rejected == 1)
    found = await get_batch(bus, topology.REVOCATIONS.name, {"seq": 1, "batch": 1, "next_by_subj": ">"})
    assert not found.messages
