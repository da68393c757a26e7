"""Enrolment from request to record, and the questions about it."""

import asyncio

import msgspec
import pytest
from sqlalchemy import func, select

from attestream.database import open_engine, reading
from attestream.errors import EnrolmentError, MalformedError, UnknownAgentError
from attestream.tpm.public import parse_public
from devtools.pool import eventually
from devtools.soft_agent import SoftAgent
from schemas import subjects
from schemas.base import decode, encode
from schemas.enrolment import (
    ActivateRequest,
    AgentsQuery,
    Done,
    EnrolChallenge,
    Enrolled,
    Identity,
    IdentityPage,
)
from schemas.events import EventKind
from services.registrar.service import serving
from services.registrar.tables import outbox

EVERY_DATABASE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
@EVERY_DATABASE
async def test_agent_enrols(registrar, make_agent, enrol, identity, on_record, clock, kind):
    agent = make_agent("web-1.example", kind=kind)
    enrolled = await enrol(agent)
    assert (enrolled.agent_id, enrolled.enrolment, enrolled.at) == ("web-1.example", 1, clock.now)
    assert enrolled.ak_name == agent.tpm.ak_name
    assert await identity("web-1.example") == Identity(
        agent_id="web-1.example",
        ek_public=agent.tpm.ek_public,
        ak_public=agent.tpm.ak_public,
        transport_key=agent.transport_key,
        enrolment=1,
        ek_trust="accepted",
        at=clock.now,
    )
    await on_record("web-1.example", (EventKind.ENROLLED, 1))


async def test_proof_covers_the_bytes_as_they_travelled(registrar, make_agent, bus):
    """A newer agent may send fields that this registrar does not know; they are under the proof all the same."""
    agent = make_agent("newer")
    fields = msgspec.msgpack.decode(encode(agent.enrol_request()))
    raw = msgspec.msgpack.encode({"from-the-future": [1, 2], **fields})
    reply = await bus.nc.request(subjects.REGISTRAR_ENROL, raw, timeout=5)
    challenge = decode(reply.data, EnrolChallenge)
    proof = agent.proof(raw, reply.data)
    request = ActivateRequest(agent_id="newer", challenge_id=challenge.challenge_id, proof=proof)
    assert (await bus.request(subjects.REGISTRAR_ACTIVATE, request, Enrolled)).enrolment == 1


@EVERY_DATABASE
async def test_retry_of_a_lost_reply_changes_nothing(registrar, make_agent, enrol, identity, on_record, clock):
    agent = make_agent("a")
    first = await enrol(agent)
    clock.now += 5_000
    assert await enrol(agent) == first
    assert (await identity("a")).at == first.at
    await on_record("a", (EventKind.ENROLLED, 1))


@EVERY_DATABASE
async def test_same_tpm_with_a_new_ak_or_transport_key_raises_the_number(registrar, make_agent, enrol, identity, on_record):
    agent = make_agent("a", machine="m")
    await enrol(agent)
    renewed = make_agent("a", machine="m")
    assert renewed.tpm.ek_public == agent.tpm.ek_public
    assert (await enrol(renewed)).enrolment == 2
    assert (await identity("a")).ak_public == renewed.tpm.ak_public
    moved = SoftAgent("a", renewed.tpm)
    assert (await enrol(moved)).enrolment == 3
    assert (await identity("a")).transport_key == moved.transport_key
    await on_record("a", (EventKind.ENROLLED, 1), (EventKind.RE_ENROLLED, 2), (EventKind.RE_ENROLLED, 3))


@EVERY_DATABASE
async def test_many_proofs_at_once_are_judged_each_by_itself(
    registrar, make_agent, challenge_of, activate, identity, pending
):
    """They share a transaction; what is wrong with one, and a proof that comes twice, touches no other."""
    agents = [make_agent(f"a{index}", machine=f"m{index % 4}") for index in range(12)]
    thief = make_agent("a0", machine="thief")
    asked = [(agent, request := agent.enrol_request(), await challenge_of(agent, request)) for agent in [*agents, thief]]
    wrong = msgspec.structs.replace(asked[3][2], challenge_id=asked[4][2].challenge_id)
    # The proof of the third is for the challenge of the fourth: it is wrong, and belongs to another agent.
    work = [*asked[:3], (asked[3][0], asked[3][1], wrong), *asked[4:], asked[5]]
    outcomes = await asyncio.gather(*(activate(*one) for one in work), return_exceptions=True)
    refused = [isinstance(outcome, EnrolmentError) for outcome in outcomes]
    assert [refused[3], sum(refused)] == [True, 3]
    assert refused[0] + refused[12] == 1, "an id belongs to one TPM"
    assert refused[5] + refused[13] == 1, "a challenge can be used once"
    good = [outcome for outcome, no in zip(outcomes, refused, strict=True) if not no]
    assert {(one.agent_id, one.enrolment) for one in good} == {(f"a{index}", 1) for index in range(12) if index != 3}
    for one in good:
        assert parse_public((await identity(one.agent_id)).ak_public).name == one.ak_name
    assert await pending() == 1, "the challenge of the third is not used up"


async def test_any_replica_judges_the_proof(registrar, bus, config, clock, make_agent):
    async with serving(bus, config, clock=clock) as other:
        agent = make_agent("a")
        request = agent.enrol_request()
        challenge = await registrar.enrol(request, encode(request))
        proof = agent.proof(encode(request), encode(challenge))
        enrolled = await other.activate(ActivateRequest(agent_id="a", challenge_id=challenge.challenge_id, proof=proof))
    assert enrolled.enrolment == 1


@EVERY_DATABASE
async def test_pages_follow_the_bytes_of_ids_whatever_the_locale(registrar, make_agent, enrol, bus):
    ids = ["B", "a", "A-1", "a_b", "a-b", "a.b", "b", "0"]
    for agent_id in ids:
        await enrol(make_agent(agent_id))
    seen: list[str] = []
    more = True
    while more:
        query = AgentsQuery(after=seen[-1] if seen else "", limit=3)
        page = await bus.request(subjects.QUERY_REGISTRAR_AGENTS, query, IdentityPage)
        seen += [found.agent_id for found in page.identities]
        more = page.more
    assert seen == sorted(ids)


@EVERY_DATABASE
async def test_ids_that_are_none_are_refused(registrar, make_agent, bus, identity):
    good = make_agent("a").enrol_request()
    for bad in ("", "a b", "\u00e4", "a\0b", "x" * 81, "../a", "*"):
        request = msgspec.structs.replace(good, agent_id=bad)
        with pytest.raises(MalformedError):
            await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
        activation = ActivateRequest(agent_id=bad, challenge_id=b"", proof=b"")
        with pytest.raises(MalformedError):
            await bus.request(subjects.REGISTRAR_ACTIVATE, activation, Enrolled)
        with pytest.raises(UnknownAgentError):
            await identity(bad)


async def test_what_is_no_request_is_refused(registrar, bus):
    for junk in (b"", b"\xc1", b"\x80", encode(Done()), bytes(200_000)):
        reply = await bus.nc.request(subjects.REGISTRAR_ENROL, junk, timeout=5)
        assert msgspec.msgpack.decode(reply.data)["t"] == "refused"


async def test_outbox_is_empty_once_events_are_on_the_record(registrar, make_agent, enrol, on_record, database_url):
    await enrol(make_agent("a"))
    await on_record("a", (EventKind.ENROLLED, 1))
    engine = open_engine(database_url)

    async def empty() -> bool:
        async with reading(engine) as connection:
            return (await connection.execute(select(func.count()).select_from(outbox))).scalar_one() == 0

    await eventually(empty)
    await engine.dispose()
