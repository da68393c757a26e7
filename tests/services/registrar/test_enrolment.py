import asyncio
import hmac
import secrets
import time

import msgspec
import pytest
from sqlalchemy import func, select

from attestream.database import open_engine, reading, transaction
from attestream.errors import EnrolmentError, MalformedError, UnknownAgentError
from attestream.tpm.public import parse_public
from devtools.soft_agent import SoftAgent
from schemas import subjects
from schemas.base import decode, encode
from schemas.enrolment import (
    ActivateRequest,
    AgentQuery,
    AgentsQuery,
    DeleteIdentity,
    Done,
    EnrolChallenge,
    Enrolled,
    Identity,
    IdentityPage,
    transcript,
)
from schemas.events import EventKind
from services.registrar import challenges
from services.registrar.enrolment import SWEEP_EVERY
from services.registrar.service import serving
from services.registrar.tables import challenge as challenge_table
from services.registrar.tables import outbox

EVERY_DATABASE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)


async def eventually(read, wanted, deadline_s=5.0):
    """Poll until ``read()`` returns ``wanted``."""
    end = time.monotonic() + deadline_s
    while (found := await read()) != wanted and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert found == wanted


@pytest.fixture
def identity(bus):
    async def ask(agent_id: str) -> Identity:
        return await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=agent_id), Identity)

    return ask


@pytest.fixture
def challenge_of(bus):
    async def ask(agent, request) -> EnrolChallenge:
        return await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)

    return ask


@pytest.fixture
def kinds(events):
    """Reads the kinds and enrolment numbers of an agent's events."""

    def of(agent_id: str):
        async def read():
            return [(event.kind, event.enrolment) for event in await events(agent_id)]

        return read

    return of


@pytest.fixture
def pending(database_url):
    """Counts the pending challenges in the database."""

    async def count() -> int:
        engine = open_engine(database_url)
        async with reading(engine) as connection:
            number = (await connection.execute(select(func.count()).select_from(challenge_table))).scalar_one()
        await engine.dispose()
        return number

    return count


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
@EVERY_DATABASE
async def test_agent_enrols(registrar, make_agent, enrol, identity, kinds, clock, kind):
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
    await eventually(kinds("web-1.example"), [(EventKind.ENROLLED, 1)])


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
async def test_retry_of_a_lost_reply_changes_nothing(registrar, make_agent, enrol, identity, kinds, clock):
    agent = make_agent("a")
    first = await enrol(agent)
    clock.now += 5_000
    assert await enrol(agent) == first
    assert (await identity("a")).at == first.at
    await eventually(kinds("a"), [(EventKind.ENROLLED, 1)])


@EVERY_DATABASE
async def test_same_tpm_with_a_new_ak_or_transport_key_raises_the_number(registrar, make_agent, enrol, identity, kinds):
    agent = make_agent("a", machine="m")
    await enrol(agent)
    renewed = make_agent("a", machine="m")
    assert renewed.tpm.ek_public == agent.tpm.ek_public
    assert (await enrol(renewed)).enrolment == 2
    assert (await identity("a")).ak_public == renewed.tpm.ak_public
    moved = SoftAgent("a", renewed.tpm)
    assert (await enrol(moved)).enrolment == 3
    assert (await identity("a")).transport_key == moved.transport_key
    await eventually(kinds("a"), [(EventKind.ENROLLED, 1), (EventKind.RE_ENROLLED, 2), (EventKind.RE_ENROLLED, 3)])


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


async def test_cve_2025_13609_another_tpm_does_not_take_over_an_id(registrar, make_agent, enrol, identity, kinds):
    owner, thief = make_agent("a"), make_agent("a")
    await enrol(owner)
    before = await identity("a")
    with pytest.raises(EnrolmentError, match="another TPM"):
        await enrol(thief)
    assert await identity("a") == before
    await eventually(kinds("a"), [(EventKind.ENROLLED, 1)])


@EVERY_DATABASE
async def test_cve_2025_13609_valid_proof_of_another_tpm_is_refused(
    registrar, make_agent, enrol, identity, challenge_of, activate
):
    """The thief was challenged while the id was still free."""
    owner, thief = make_agent("a"), make_agent("a")
    request = thief.enrol_request()
    challenge = await challenge_of(thief, request)
    await enrol(owner)
    before = await identity("a")
    with pytest.raises(EnrolmentError, match="another TPM"):
        await activate(thief, request, challenge)
    assert await identity("a") == before


@EVERY_DATABASE
async def test_two_tpms_that_race_for_a_free_id_leave_one_owner(registrar, make_agent, challenge_of, activate, identity):
    agents = [make_agent("a") for _ in range(4)]
    requests = [agent.enrol_request() for agent in agents]
    given = [await challenge_of(agent, request) for agent, request in zip(agents, requests, strict=True)]
    outcomes = await asyncio.gather(
        *(activate(*three) for three in zip(agents, requests, given, strict=True)), return_exceptions=True
    )
    winners = [agent for agent, outcome in zip(agents, outcomes, strict=True) if isinstance(outcome, Enrolled)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, EnrolmentError) for outcome in outcomes) == 3
    assert (await identity("a")).ak_public == winners[0].tpm.ak_public


@EVERY_DATABASE
async def test_strangers_do_not_disturb_an_active_record(registrar, make_agent, enrol, identity, challenge_of, bus, kinds):
    """A wrong activation deletes the victim's record in another product; here nothing of it may change."""
    agent = make_agent("victim", machine="v")
    await enrol(agent)
    before = await identity("victim")
    for _ in range(challenges.MAX_PER_AGENT + 3):
        challenge = await challenge_of(agent, agent.enrol_request())
        wrong = ActivateRequest(agent_id="victim", challenge_id=challenge.challenge_id, proof=secrets.token_bytes(32))
        with pytest.raises(EnrolmentError):
            await bus.request(subjects.REGISTRAR_ACTIVATE, wrong, Enrolled)
    assert await identity("victim") == before
    assert (await enrol(agent)).enrolment == 1
    await eventually(kinds("victim"), [(EventKind.ENROLLED, 1)])


async def test_challenge_is_used_up_by_a_good_proof(registrar, make_agent, challenge_of, activate):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    await activate(agent, request, challenge)
    with pytest.raises(EnrolmentError, match="no such challenge"):
        await activate(agent, request, challenge)


async def test_challenge_is_used_up_by_a_wrong_proof(registrar, make_agent, challenge_of, activate, bus):
    agent = make_agent("a")
    for proof in (b"", secrets.token_bytes(32), secrets.token_bytes(31), bytes(500_000)):
        request = agent.enrol_request()
        challenge = await challenge_of(agent, request)
        wrong = ActivateRequest(agent_id="a", challenge_id=challenge.challenge_id, proof=proof)
        with pytest.raises(EnrolmentError, match="proof is wrong"):
            await bus.request(subjects.REGISTRAR_ACTIVATE, wrong, Enrolled)
        with pytest.raises(EnrolmentError, match="no such challenge"):
            await activate(agent, request, challenge)


@EVERY_DATABASE
async def test_one_proof_sent_many_times_at_once_counts_once(registrar, make_agent, challenge_of, activate, kinds):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    outcomes = await asyncio.gather(*(activate(agent, request, challenge) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Enrolled) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, EnrolmentError) for outcome in outcomes) == 5


async def test_proof_over_another_request_is_wrong(registrar, make_agent, challenge_of, bus):
    """A man in the middle who swaps the transport key in the request gets a proof that covers the agent's own."""
    agent = make_agent("a")
    request = agent.enrol_request()
    swapped = msgspec.structs.replace(request, transport_key=secrets.token_bytes(32))
    challenge = await challenge_of(agent, swapped)
    proof = agent.proof(encode(request), encode(challenge))
    with pytest.raises(EnrolmentError, match="proof is wrong"):
        await bus.request(
            subjects.REGISTRAR_ACTIVATE,
            ActivateRequest(agent_id="a", challenge_id=challenge.challenge_id, proof=proof),
            Enrolled,
        )


async def test_secret_of_another_tpms_challenge_can_not_be_opened(registrar, make_agent, challenge_of, bus):
    """An AK that lives in software, beside the EK of a real TPM: the TPM does not open a credential for a foreign name."""
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    guess = hmac.digest(bytes(32), transcript(encode(request), encode(challenge)), "sha256")
    with pytest.raises(EnrolmentError, match="proof is wrong"):
        await bus.request(
            subjects.REGISTRAR_ACTIVATE,
            ActivateRequest(agent_id="a", challenge_id=challenge.challenge_id, proof=guess),
            Enrolled,
        )


async def test_challenge_expires(registrar, make_agent, challenge_of, activate, clock):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    assert challenge.expires_at == clock.now + 60_000
    clock.now += 60_000
    with pytest.raises(EnrolmentError, match="expired"):
        await activate(agent, request, challenge)


@EVERY_DATABASE
async def test_challenge_of_another_agent_is_refused_and_stays_good(registrar, make_agent, challenge_of, activate, bus):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    stolen = ActivateRequest(
        agent_id="b", challenge_id=challenge.challenge_id, proof=agent.proof(encode(request), encode(challenge))
    )
    with pytest.raises(EnrolmentError, match="no such challenge"):
        await bus.request(subjects.REGISTRAR_ACTIVATE, stolen, Enrolled)
    assert (await activate(agent, request, challenge)).enrolment == 1


@EVERY_DATABASE
async def test_flood_for_one_id_keeps_few_challenges_and_the_newest_works(
    registrar, make_agent, challenge_of, activate, clock, pending
):
    agent = make_agent("a")
    for _ in range(30):
        clock.now += 1
        request = agent.enrol_request()
        challenge = await challenge_of(agent, request)
    assert await pending() == challenges.MAX_PER_AGENT
    assert (await activate(agent, request, challenge)).enrolment == 1


@EVERY_DATABASE
async def test_sweep_removes_expired_and_surplus_challenges(
    registrar, make_agent, challenge_of, clock, pending, database_url
):
    for number in range(6):
        agent = make_agent(f"a{number}")
        await challenge_of(agent, agent.enrol_request())
        clock.now += 10_000
    clock.now += 10_001
    assert await registrar.sweep() == 4
    engine = open_engine(database_url)
    async with transaction(engine) as connection:
        assert await challenges.sweep(connection, now=clock.now, most=2) == 2
    await engine.dispose()
    assert await pending() == 2


async def test_flood_of_many_ids_is_swept_while_it_lasts(registrar, make_agent, clock, pending):
    request = make_agent("a").enrol_request()
    for number in range(SWEEP_EVERY):
        if number == SWEEP_EVERY - 6:
            clock.now += 60_001
        flood = msgspec.structs.replace(request, agent_id=f"a{number}")
        await registrar.enrol(flood, encode(flood))
    assert await pending() == 6


async def test_any_replica_judges_the_proof(registrar, bus, config, clock, make_agent):
    async with serving(bus, config, clock=clock) as other:
        agent = make_agent("a")
        request = agent.enrol_request()
        challenge = await registrar.enrol(request, encode(request))
        proof = agent.proof(encode(request), encode(challenge))
        enrolled = await other.activate(ActivateRequest(agent_id="a", challenge_id=challenge.challenge_id, proof=proof))
    assert enrolled.enrolment == 1


@EVERY_DATABASE
async def test_deleted_id_is_free_for_another_tpm_and_its_numbers_go_on(registrar, make_agent, enrol, identity, bus, kinds):
    await enrol(make_agent("a"))
    await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    with pytest.raises(UnknownAgentError):
        await identity("a")
    with pytest.raises(UnknownAgentError):
        await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    assert (await enrol(make_agent("a"))).enrolment == 2
    await eventually(kinds("a"), [(EventKind.ENROLLED, 1), (EventKind.IDENTITY_DELETED, 1), (EventKind.ENROLLED, 2)])


async def test_deletion_ends_pending_challenges(registrar, make_agent, enrol, challenge_of, activate, bus):
    agent = make_agent("a")
    await enrol(agent)
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    with pytest.raises(EnrolmentError, match="no such challenge"):
        await activate(agent, request, challenge)


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


async def test_outbox_is_empty_once_events_are_on_the_record(registrar, make_agent, enrol, kinds, database_url):
    await enrol(make_agent("a"))
    await eventually(kinds("a"), [(EventKind.ENROLLED, 1)])
    engine = open_engine(database_url)

    async def rows() -> int:
        async with reading(engine) as connection:
            return (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()

    await eventually(rows, 0)
    await engine.dispose()
