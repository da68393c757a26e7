"""What passes between the accounts of the bus, and that answers can not be turned on anybody."""

from __future__ import annotations

import json

import pytest

from attestream.errors import MalformedError
from devtools.secure_bus import user_credentials
from schemas import subjects, topology
from schemas.accounts import GUESTS
from schemas.roles import NAME, TENANTS, Role, grant, inbox

ME = "me"
NOTHING = b'{"last_by_subj":"no.such.subject"}'
EVERYTHING = b'{"seq":1,"next_by_subj":">","batch":10}'
STREAMS = (
    *(stream.name for stream in topology.STREAMS),
    *(f"KV_{bucket.name}" for bucket in topology.BUCKETS),
    *(f"OBJ_{name}" for name in topology.OBJECT_BUCKETS),
)
TARGETS = (
    *(f"$JS.API.STREAM.{verb}.{stream}" for stream in STREAMS for verb in ("DELETE", "PURGE")),
    "$JS.API.CONSUMER.DELETE.EVENTS.notifier",
    "att.result.victim",
    "att.event.trusted.victim",
    "att.revocation.victim",
    "att.revoked.victim",
    "att.dead.EVIDENCE",
    "att.agent.victim.challenge",
    "$KV.attestream.roster",
    "$KV.attestream.policy.base.1",
    "$KV.leases.7",
    "$KV.workers.w",
    "$O.policies.M.x",
    "$O.policies.C.x",
    "att.evidence.victim",
    "att.command.victim",
    "_INBOX_verifier.verifier.1",
    "_INBOX_admin.admin.1",
    "_R_.x.y",
)
"""Where somebody might want the server, or a service, to write for it."""


def place(role, name=ME, token="1"):
    return f"{inbox(role, name)}.{token}"


def body(heard):
    """Return the payload without headers: the server adds one that names the account."""
    return heard.data.rpartition(b"\r\n\r\n")[2]


def direct_gets(role):
    return [subject.replace(NAME, ME) for subject in grant(role).publish if ".DIRECT.GET." in subject]


def stored(role):
    """Return subjects of streams into which ``role`` may publish, and their streams."""
    pairs = (
        ("att.evidence.", "EVIDENCE"),
        ("att.command.", "COMMANDS"),
        ("$O.policies.C.", "OBJ_policies"),
        ("$O.policies.M.", "OBJ_policies"),
    )
    for pattern in grant(role).publish:
        for prefix, stream in pairs:
            if pattern.startswith(prefix):
                yield pattern.replace(NAME, ME).replace("*", "mine"), stream


@pytest.mark.parametrize("role", GUESTS)
async def test_guest_can_not_turn_answers_on_streams_it_may_not_write(secure_bus, role):
    """In one account, a direct get of nothing with STREAM.DELETE as its reply subject deletes a stream."""
    guest = await secure_bus.probe(role)
    before = await secure_bus.counts()
    mine = {stream for _, stream in stored(role)}
    for target in TARGETS:
        for subject in direct_gets(role):
            for request in (NOTHING, EVERYTHING):
                await guest.publish(subject, request, target)
        for subject, _ in stored(role):
            await guest.publish(subject, b"?", target)
    await guest.close()
    after = await secure_bus.counts()
    assert {name: count for name, count in after.items() if name not in mine} == {
        name: count for name, count in before.items() if name not in mine
    }


@pytest.mark.parametrize("role", GUESTS)
async def test_guest_is_answered_by_everything_that_it_may_read(secure_bus, role):
    guest = await secure_bus.probe(role)
    for number, subject in enumerate(direct_gets(role)):
        named = subject.count(".") > 4
        answer = await guest.ask(subject, b"" if named else NOTHING, place(role, token=number))
        assert answer is not None, subject
        assert answer.startswith(b"NATS/1.0 404"), answer
    for number, (subject, stream) in enumerate(stored(role)):
        answer = await guest.ask(subject, b"?", place(role, token=f"s{number}"))
        assert answer is not None, subject
        assert json.loads(answer)["stream"] == stream
    await guest.close()


async def served(secure_bus, service, subject, asker, role, *, name=ME):
    """Ask on ``subject``; return what the service was asked and what came back."""
    assert await service.subscribe(subject)
    service.heard.clear()
    assert await asker.publish(subject, b"question", place(role, name))
    await service.flush()
    (question,) = [heard for heard in service.heard if body(heard) == b"question"]
    assert question.reply.startswith("_R_.")
    assert await service.publish(question.reply, b"answer")
    await service.flush()
    await asker.flush()
    return [heard.data for heard in asker.heard if heard.subject == place(role, name)]


@pytest.mark.parametrize(
    ("role", "subject"),
    [
        (role, subject.replace(NAME, ME))
        for role in GUESTS
        for subject in grant(role).publish
        if subject.startswith(("att.registrar.", "att.query."))
    ],
    ids=str,
)
async def test_service_answers_a_guest_in_its_account(secure_bus, role, subject):
    service = await secure_bus.probe(Role.VERIFIER if "verifier" in subject else Role.REGISTRAR)
    guest = await secure_bus.probe(role)
    assert await served(secure_bus, service, subject, guest, role) == [b"answer"]
    await service.close()
    await guest.close()


async def test_service_can_not_be_made_to_publish_elsewhere(secure_bus):
    """A registrar answers where it is told to; the server lets that be an inbox only."""
    service = await secure_bus.probe(Role.REGISTRAR)
    targets = [target for target in TARGETS if not target.startswith(("_INBOX_verifier.", "_R_."))]
    targets.remove("$KV.attestream.roster")  # its own to write
    assert await service.refused_publishes(targets) == set(targets)
    await service.close()


@pytest.mark.parametrize("role", [role for role in TENANTS if subjects.COMMAND_IN in grant(role).publish])
async def test_outcome_of_a_command_reaches_who_gave_it(secure_bus, role):
    verifier = await secure_bus.probe(Role.VERIFIER)
    giver, neighbour = await secure_bus.probe(role), await secure_bus.probe(role, "neighbour")
    assert await verifier.publish(place(role), b"outcome")
    await verifier.flush()
    await giver.flush()
    await neighbour.flush()
    assert [heard.data for heard in giver.heard] == [b"outcome"]
    assert neighbour.heard == []
    for probe in (verifier, giver, neighbour):
        await probe.close()


async def test_revocation_and_result_reach_those_who_may_hear_them(secure_bus):
    notifier, verifier = await secure_bus.probe(Role.NOTIFIER), await secure_bus.probe(Role.VERIFIER)
    hearers = [await secure_bus.probe(role) for role in (Role.AGENT, Role.OBSERVER, Role.ADMIN)]
    for hearer in hearers:
        assert await hearer.subscribe(subjects.REVOKED)
    assert not await hearers[0].subscribe(subjects.RESULTS)
    assert await hearers[1].subscribe(subjects.RESULTS)
    assert await notifier.ask(subjects.revocation("bad"), b"revoked", place(Role.NOTIFIER)) is not None
    assert await verifier.ask(subjects.result("good"), b"result", place(Role.VERIFIER)) is not None
    heard = []
    for hearer in hearers:
        await hearer.flush()
        heard.append({(item.subject, body(item)) for item in hearer.heard})
    revoked = (subjects.revoked("bad"), b"revoked")
    assert heard == [{revoked}, {revoked, (subjects.result("good"), b"result")}, {revoked}]
    for probe in (notifier, verifier, *hearers):
        await probe.close()


async def test_agent_whose_id_has_a_dot_is_one_agent(secure_bus):
    token = subjects.token("host.one")
    agent = await secure_bus.probe(Role.AGENT, token)
    assert await agent.publish(subjects.evidence("host.one"))
    assert await agent.subscribe(subjects.agent_orders("host.one"))
    refused = ["att.evidence.host.one", "att.evidence.host", "att.evidence.one", "att.evidence.host%2etwo", "att.evidence.*"]
    assert await agent.refused_publishes(refused) == set(refused)
    foreign = ["att.agent.host.>", "att.agent.host.one.>", "att.agent.*.>", "_INBOX_agent.host.>", "_INBOX_agent.*.>"]
    assert await agent.refused_subscriptions(foreign) == set(foreign)
    await agent.close()


@pytest.mark.parametrize("name", ["verifier", "me", "provisioner"])
@pytest.mark.parametrize("role", [Role.AGENT, Role.OPERATOR, Role.ENROLMENT, Role.OBSERVER])
async def test_nobody_listens_to_inboxes_of_others_whatever_its_name(secure_bus, role, name):
    probe = await secure_bus.probe(role, name)
    inboxes = ["_INBOX.>", "_INBOX_>", ">", "_R_.>", f"{inbox(role, '*')}.>", f"{inbox(role, 'victim')}.>"]
    inboxes += [f"{inbox(other, name)}.>" for other in Role if other is not role]
    assert await probe.refused_subscriptions(inboxes) == set(inboxes)
    await probe.close()


@pytest.mark.parametrize("name", ["*", ">", "a.>", "a.b", "x *", "", "a" * 300])
def test_name_that_is_no_token_gets_no_identity(secure_bus, name):
    """The server puts the name into permissions as it is: an agent called * would be every agent."""
    with pytest.raises(MalformedError):
        user_credentials(secure_bus.installation, Role.AGENT, name)


async def test_agent_answers_a_challenge_once_and_nowhere_else(secure_bus):
    verifier, agent = await secure_bus.probe(Role.VERIFIER), await secure_bus.probe(Role.AGENT)
    assert await agent.subscribe(f"att.agent.{ME}.>")
    reply = place(Role.VERIFIER, token="challenge.1")
    assert await verifier.publish(f"att.agent.{ME}.challenge", b"nonce", reply)
    await agent.flush()
    assert [heard.reply for heard in agent.heard] == [reply]
    elsewhere = [reply + "2", place(Role.VERIFIER, token="2"), "att.evidence.victim", "att.result.me"]
    assert await agent.refused_publishes(elsewhere) == set(elsewhere)
    assert await agent.publish(reply, b"quote")
    assert not await agent.publish(reply, b"quote")
    await verifier.flush()
    assert [body(heard) for heard in verifier.heard] == [b"quote"]
    await verifier.close()
    await agent.close()


async def test_verifier_is_told_at_once_that_an_agent_is_absent(secure_bus):
    """Accounts must not turn the server's word that nobody listens into silence."""
    verifier = await secure_bus.probe(Role.VERIFIER)
    answer = await verifier.ask("att.agent.absent.challenge", b"nonce", place(Role.VERIFIER))
    assert answer is not None
    assert answer.startswith(b"NATS/1.0 503")
    await verifier.close()


async def test_agent_can_not_have_answers_filed_as_evidence_of_another(secure_bus):
    """Agents share an account, and with it what it imports: the server does not follow a reply into the same import."""
    notifier, agent = await secure_bus.probe(Role.NOTIFIER), await secure_bus.probe(Role.AGENT)
    assert await notifier.ask(subjects.revocation("bad"), b"revoked", place(Role.NOTIFIER)) is not None
    before = (await secure_bus.counts())["EVIDENCE"]
    for request in (EVERYTHING, b'{"last_by_subj":"att.revocation.bad"}', NOTHING):
        assert await agent.publish("$JS.API.DIRECT.GET.REVOCATIONS", request, subjects.evidence("victim"))
    assert await agent.publish(subjects.evidence(ME), b"mine", subjects.evidence("victim"))
    # Its own message is stored; by then, anything else would have been too.
    assert await agent.ask(subjects.evidence(ME), b"mine", place(Role.AGENT)) is not None
    assert (await secure_bus.counts())["EVIDENCE"] == before + 2
    await notifier.close()
    await agent.close()
