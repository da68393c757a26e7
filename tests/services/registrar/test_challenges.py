"""The life of a challenge: used once, by its own agent, for a short time; and there are never many."""

import asyncio
import secrets

import msgspec
import pytest

from attestream.database import open_engine, transaction
from attestream.errors import EnrolmentError
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import ActivateRequest, DeleteIdentity, Done, Enrolled
from services.registrar import challenges
from services.registrar.enrolment import SWEEP_EVERY

EVERY_DATABASE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)


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
async def test_one_proof_sent_many_times_at_once_counts_once(registrar, make_agent, challenge_of, activate, on_record):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    outcomes = await asyncio.gather(*(activate(agent, request, challenge) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Enrolled) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, EnrolmentError) for outcome in outcomes) == 5


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


async def test_deletion_ends_pending_challenges(registrar, make_agent, enrol, challenge_of, activate, bus):
    agent = make_agent("a")
    await enrol(agent)
    request = agent.enrol_request()
    challenge = await challenge_of(agent, request)
    await bus.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="a"), Done)
    with pytest.raises(EnrolmentError, match="no such challenge"):
        await activate(agent, request, challenge)
