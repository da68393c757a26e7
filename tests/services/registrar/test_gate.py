"""A flood of enrolment requests is refused early, and honest agents go on."""

import asyncio

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.config import LimitsConfig, RegistrarConfig
from attestream.errors import BusyError
from schemas import subjects
from schemas.base import Decoder, encode
from schemas.enrolment import AgentQuery, EnrolChallenge, Refused
from services.registrar.gate import BURST_PER_SOURCE, Gate
from services.registrar.service import serving

ANSWER = Decoder(EnrolChallenge | Refused)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def passed(gate, agent_id, ek, times):
    for count in range(times):
        try:
            gate.enter(agent_id, ek)
        except BusyError:
            return count
    return times


def test_one_source_is_held_to_its_rate_and_takes_nothing_from_others():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_agent_min=6), clock)
    assert passed(gate, "a", b"ek", 100) == BURST_PER_SOURCE
    with pytest.raises(BusyError) as failure:
        gate.enter("a", b"ek")
    assert failure.value.hint.startswith("Try again in ")
    assert passed(gate, "b", b"ek", 1) == 1
    assert passed(gate, "a", b"another TPM", 1) == 1
    clock.now = 21
    assert passed(gate, "a", b"ek", 100) == 2


def test_all_together_are_held_to_a_rate():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_s=10), clock)
    assert sum(passed(gate, f"a{number}", b"ek", 1) for number in range(100)) == 20
    clock.now = 1
    assert sum(passed(gate, f"b{number}", b"ek", 1) for number in range(100)) == 10


@pytest.fixture
async def registrar(bus, tmp_path):
    config = RegistrarConfig(database_url=f"sqlite:///{tmp_path}/registrar.db", accept_ek="any")
    async with serving(bus, config, limits=LimitsConfig(enrolments_waiting=50)) as registrar:
        yield registrar


async def test_a_flood_is_told_to_come_back_and_an_honest_agent_enrols(registrar, nats_server, make_agent):
    flooder, honest = make_agent("flooder"), make_agent("honest")
    other = await connect(BusSettings(urls=[nats_server.url]))
    requests = [encode(flooder.enrol_request()) for _ in range(200)]
    answers = await asyncio.gather(
        *(other.replies.ask(subjects.REGISTRAR_ENROL, request, other.headers(), 30) for request in requests)
    )
    codes = [answer.code for answer in (ANSWER.decode(answer.data) for answer in answers) if isinstance(answer, Refused)]
    assert len(codes) >= len(requests) - BURST_PER_SOURCE - 10
    assert set(codes) == {"busy"}
    await other.request(subjects.REGISTRAR_ENROL, honest.enrol_request(), EnrolChallenge, timeout_s=30)
    await other.close()


async def test_requests_beyond_those_that_may_wait_are_refused_at_once(bus):
    release = asyncio.Event()

    async def slow(query):
        await release.wait()
        return Refused(code="done", message="")

    await bus.serve("test.slow", "q", AgentQuery, slow, concurrency=2, waiting=3)
    asked = [
        asyncio.ensure_future(bus.replies.ask("test.slow", encode(AgentQuery(agent_id="a")), None, 30)) for _ in range(20)
    ]
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 15:
        more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    codes = {Decoder(Refused).decode((await answer).data).code for answer in done}
    assert codes == {"busy"}
    release.set()
    assert {Decoder(Refused).decode((await answer).data).code for answer in waiting} == {"done"}
