"""An id belongs to one TPM until an operator frees it: nobody else takes it over, or disturbs who has it."""

import asyncio
import hmac
import secrets

import msgspec
import pytest

from attestream.errors import EnrolmentError, SupersededError, UnknownAgentError
from attestream.trust.keyring import Author
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import ActivateRequest, DeleteIdentity, Done, Enrolled, transcript
from schemas.events import EventKind
from schemas.roles import Role
from services.registrar import challenges

EVERY_DATABASE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)


async def test_cve_2025_13609_another_tpm_does_not_take_over_an_id(registrar, make_agent, enrol, identity, on_record):
    owner, thief = make_agent("a"), make_agent("a")
    await enrol(owner)
    before = await identity("a")
    with pytest.raises(EnrolmentError, match="another TPM"):
        await enrol(thief)
    assert await identity("a") == before
    await on_record("a", (EventKind.ENROLLED, 1))


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
async def test_strangers_do_not_disturb_an_active_record(
    registrar, make_agent, enrol, identity, challenge_of, bus, on_record
):
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
    await on_record("victim", (EventKind.ENROLLED, 1))


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


@EVERY_DATABASE
async def test_deleted_id_is_free_for_another_tpm_and_its_numbers_go_on(
    registrar, make_agent, enrol, identity, bus, on_record
):
    await enrol(make_agent("a"))
    await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    with pytest.raises(UnknownAgentError):
        await identity("a")
    with pytest.raises(UnknownAgentError):
        await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    assert (await enrol(make_agent("a"))).enrolment == 2
    await on_record("a", (EventKind.ENROLLED, 1), (EventKind.IDENTITY_DELETED, 1), (EventKind.ENROLLED, 2))


@EVERY_DATABASE
async def test_an_order_to_delete_that_was_kept_back_ends_nothing_that_has_begun_since(
    registrar, make_agent, enrol, identity, clock, on_record
):
    await enrol(make_agent("a"))
    before, early, late = await identity("a"), *(Author(Role.ADMIN, "alice", "key", clock.now + at) for at in (-1, 0))
    with pytest.raises(SupersededError, match="has enrolled since"):
        await registrar.delete(DeleteIdentity(agent_id="a"), early)
    assert await identity("a") == before
    await registrar.delete(DeleteIdentity(agent_id="a"), late)
    await on_record("a", (EventKind.ENROLLED, 1), (EventKind.IDENTITY_DELETED, 1))
