import pytest

from attestream.bus import keyvalue, stored
from attestream.config import NotifierConfig
from attestream.signing import Signer, TrustedKeys
from devtools.ima_log import record
from schemas import subjects, topology
from schemas.base import MAX_MESSAGE_BYTES, decode, encode
from schemas.events import DeadLetter, Event, EventKind, Finding, Revocation, Signed, Standing
from services.notifier.revoker import MAX_REVOCATION_BYTES, revocation
from services.notifier.service import notifying

CONFIG = NotifierConfig()
NOW = 1_800_000_009_999


@pytest.fixture
async def notifier(bus, signer):
    async with notifying(bus, CONFIG, signer, clock=lambda: NOW):
        yield


async def dead(bus) -> list[DeadLetter]:
    found = await stored.last_messages(bus, topology.DEAD.name, [subjects.DEAD])
    return [decode(message.data, DeadLetter) for message in found]


async def test_failing_transition_becomes_a_signed_revocation(notifier, fail, revocations, eventually):
    event_id = await fail("web-1.example")
    (found,) = await eventually(revocations)
    assert found.id == event_id
    assert (found.agent_id, found.at, found.signed_at) == ("web-1.example", 1_800_000_000_001, NOW)
    assert (found.standing, found.enrolment, found.policy) == (Standing.FAILED, 2, "base@3")
    assert [one.culprit for one in found.findings] == ["/usr/bin/evil"]


async def test_connected_agents_hear_it_republished(notifier, bus, signer, fail, eventually):
    heard = []

    async def take(message):
        heard.append(message)

    await bus.subscribe(subjects.REVOKED, take)
    await bus.nc.flush()
    await fail("a.b")
    await eventually(lambda: heard)
    assert heard[0].subject == subjects.revoked("a.b")
    signed = decode(heard[0].data, Signed)
    assert TrustedKeys.from_pems([signer.public_pem]).open(signed, Revocation).agent_id == "a.b"


async def test_rsa_pss_signs_as_well(bus, tmp_path, fail, eventually):
    signer = Signer.generate(tmp_path / "rsa.pem", "rsa-pss-sha256")
    async with notifying(bus, CONFIG, signer):
        await fail("a")
        found = await eventually(lambda: stored.last_messages(bus, topology.REVOCATIONS.name, [subjects.REVOCATIONS]))
    signed = decode(found[0].data, Signed)
    assert signed.algorithm == "rsa-pss-sha256"
    assert TrustedKeys.from_pems([signer.public_pem]).open(signed, Revocation).agent_id == "a"


async def test_public_key_is_published(notifier, bus, signer):
    entry = await keyvalue.get(bus, topology.CLUSTER.name, f"{topology.KEY_NOTIFIER}.{signer.key_id}")
    assert entry.value.decode() == signer.public_pem


async def test_restart_does_not_write_the_key_again(notifier, bus, signer):
    before = await keyvalue.get(bus, topology.CLUSTER.name, f"{topology.KEY_NOTIFIER}.{signer.key_id}")
    async with notifying(bus, CONFIG, signer):
        after = await keyvalue.get(bus, topology.CLUSTER.name, f"{topology.KEY_NOTIFIER}.{signer.key_id}")
    assert after.revision == before.revision


async def test_what_failed_while_no_notifier_ran_is_revoked_later(bus, signer, fail, revocations, eventually):
    for number in range(5):
        await fail(f"agent-{number}")
    async with notifying(bus, CONFIG, signer):
        assert len(await eventually(lambda: _whole(revocations, 5))) == 5


async def _whole(revocations, count):
    found = await revocations()
    return found if len(found) >= count else []


async def test_two_notifiers_share_the_work(bus, signer, fail, revocations, eventually):
    async with notifying(bus, CONFIG, signer), notifying(bus, CONFIG, signer):
        ids = [await fail(f"agent-{number}") for number in range(40)]
        found = await eventually(lambda: _whole(revocations, 40))
    assert sorted(one.id for one in found) == sorted(ids)


async def test_other_kinds_revoke_nobody(notifier, bus, fail, revocations, eventually):
    for kind in EventKind:
        if kind is not EventKind.FAILED:
            event = Event(id=f"x:{kind}", kind=kind, agent_id="x", at=1)
            await bus.publish_durable(subjects.event(kind, "x"), event, message_id=event.id)
    await fail("y")
    assert [one.agent_id for one in await eventually(revocations)] == ["y"]


@pytest.mark.parametrize(
    "data",
    [
        b"junk",
        encode(Event(id="e", kind=EventKind.FAILED, agent_id="another", at=1)),
        encode(Event(id="e", kind=EventKind.TRUSTED, agent_id="a", at=1)),
    ],
    ids=["not-an-event", "another-agent", "another-kind"],
)
async def test_event_that_does_not_fit_its_subject_is_dead(notifier, bus, fail, revocations, eventually, data):
    await bus.publish_durable(subjects.event(EventKind.FAILED, "a"), data, message_id="forged")
    await fail("b")
    assert [one.agent_id for one in await eventually(revocations)] == ["b"]
    (letter,) = await eventually(lambda: dead(bus))
    assert (letter.stream, letter.code, letter.data) == (topology.EVENTS.name, "malformed", data)


def test_revocation_always_fits_the_bus(signer):
    """An attacker who controls paths can make findings long: the revocation must go out all the same."""
    long = record("/" + "x" * 4000, bytes(32)).ascii
    findings = [
        Finding(code="c", layer="runtime", severity="failure", culprit=f"{number}{long}", message=long, remedy="r")
        for number in range(100)
    ]
    event = Event(id="e", kind=EventKind.FAILED, agent_id="a", at=1, standing=Standing.FAILED, findings=findings)
    cut = revocation(event, 2)
    assert len(encode(cut)) <= MAX_REVOCATION_BYTES
    assert len(encode(signer.sign(cut))) < MAX_MESSAGE_BYTES
    assert 0 < len(cut.findings) < 100
    assert cut.findings == findings[: len(cut.findings)]
    huge = Finding(code="c", layer="runtime", severity="failure", culprit="x" * 500_000, message="", remedy="")
    assert revocation(Event(id="e", kind=EventKind.FAILED, agent_id="a", at=1, findings=[huge]), 2).findings == []
