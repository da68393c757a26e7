"""A flood of enrolment requests is refused early, and honest agents go on."""

import asyncio
import functools
import json
import secrets
from collections import Counter

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.config import LimitsConfig, RegistrarConfig
from attestream.credentials.nkey import Kind, NKey
from attestream.errors import BusyError
from attestream.rates import MOST_KEYS
from devtools.bus_identities import connect_with, enrolled, registrar_config
from devtools.pool import eventually
from schemas import subjects
from schemas.base import Decoder, encode
from schemas.enrolment import ActivateRequest, AgentQuery, EnrolChallenge, Refused
from schemas.roles import Role
from schemas.subjects import HEADER_REQUEST_INFO
from services.registrar.gate import BURST_PER_SOURCE, Gate, source_of
from services.registrar.service import serving

ANSWER = Decoder(EnrolChallenge | Refused)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def passed(gate, source, ek, times):
    for count in range(times):
        try:
            gate.enter(source, ek)
        except BusyError:
            return count
    return times


def strangers(gate, source, count):
    """Return how many of ``count`` machines at one address get through."""
    return sum(passed(gate, source, secrets.token_bytes(8), 1) for _ in range(count))


def test_one_machine_is_held_to_its_rate_and_takes_nothing_from_others():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_agent_min=6), clock)
    assert passed(gate, "here", b"ek", 100) == BURST_PER_SOURCE
    with pytest.raises(BusyError) as failure:
        gate.enter("here", b"ek")
    assert failure.value.hint.startswith("Try again in ")
    assert passed(gate, "here", b"another", 1) == 1
    # Nobody uses up elsewhere what a machine may ask for.
    assert passed(gate, "there", b"ek", 1) == 1
    clock.now = 21
    assert passed(gate, "here", b"ek", 100) == 2


def test_all_together_are_held_to_a_rate():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_s=10), clock)
    assert strangers(gate, "", 100) == 20
    clock.now = 1
    assert strangers(gate, "", 100) == 10


def test_one_address_may_ask_for_all_that_nobody_else_does():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_s=100), clock)
    assert strangers(gate, "here", 1000) >= 100
    served = 0
    for second in range(1, 11):
        clock.now = second
        served += strangers(gate, "here", 1000)
    assert served == pytest.approx(1000, abs=20)


def test_whoever_floods_leaves_others_their_share():
    clock = Clock()
    gate = Gate(LimitsConfig(enrolments_per_s=100), clock)
    for tenth in range(1, 101):
        clock.now = tenth / 10
        strangers(gate, "flood", 200)
        assert strangers(gate, f"honest {tenth % 7}", 1) == 1
        strangers(gate, "flood", 200)


def test_memory_is_bounded_however_many_there_are():
    gate = Gate(LimitsConfig(), Clock())
    for number in range(MOST_KEYS + 100):
        passed(gate, f"{number}", b"ek", 1)
    assert len(gate._machines._buckets) == len(gate._sources._buckets) == MOST_KEYS


def test_who_hides_where_he_asks_from_leaves_others_their_share():
    """Headers can be such that what the server adds to them is not found."""
    gate = Gate(LimitsConfig(enrolments_per_s=20), Clock(), told=True)
    assert strangers(gate, "", 100) == 20
    assert strangers(gate, "elsewhere", 1) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("a name", "a name", True),
    ],
)
def test_an_address_of_version_6_stands_for_its_network(one, other, same):
    def source(host, account="A"):
        return source_of(Msg(Client(), "s", headers={HEADER_REQUEST_INFO: json.dumps({"acc": account, "host": host})}))

    assert (source(one) == source(other)) is same
    assert source(one) != source(one, "B")
    assert source("") == ""


def test_what_servers_do_not_tell_is_nobodys():
    for text in ("", "no json", "[]", '{"acc":"A"}', '{"acc":"\udcff"}', '{"a":' * 9_999):
        assert source_of(Msg(Client(), "s", headers={HEADER_REQUEST_INFO: text})) == ""
    assert source_of(Msg(Client(), "s")) == ""


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


@pytest.mark.alone
async def test_a_flood_of_machines_that_there_are_not_does_not_keep_an_honest_one_out(
    installation, secured, tmp_path, monkeypatch, make_agent, caplog
):
    """Whoever has the enrolment credential can make up endorsement keys, ids and proofs without end."""
    await ensure_topology(await connect_with(secured.url, installation.credentials(Role.PROVISIONER)))
    bus = await connect_with(secured.url, installation.credentials(Role.REGISTRAR))
    flooding = await connect_with(secured.url, installation.credentials(Role.ENROLMENT))
    monkeypatch.setattr("asyncio.open_connection", functools.partial(asyncio.open_connection, local_addr=("127.0.0.9", 0)))
    honest = await connect_with(secured.url, installation.credentials(Role.ENROLMENT))
    monkeypatch.undo()
    config = registrar_config(installation, tmp_path / "registrar.db")
    requests = [encode(make_agent(f"made-up-{number}").enrol_request()) for number in range(100)]
    proofs = [encode(ActivateRequest(agent_id=f"a{n}", challenge_id=bytes(16), proof=bytes(32))) for n in range(300)]
    codes = Counter()

    async def flood():
        while True:
            for proof in proofs:
                await flooding.nc.publish(subjects.REGISTRAR_ACTIVATE, proof)
            asked = (flooding.replies.ask(subjects.REGISTRAR_ENROL, request, flooding.headers(), 30) for request in requests)
            answers = [ANSWER.decode(answer.data) for answer in await asyncio.gather(*asked)]
            codes.update(getattr(answer, "code", "challenge") for answer in answers)

    async with serving(bus, config, limits=LimitsConfig(enrolments_per_s=20, enrolments_per_agent_min=10_000)):
        task = asyncio.create_task(flood())
        await eventually(lambda: codes["busy"] > 100)
        for number in range(2):
            key = NKey.generate(Kind.USER)
            assert (await enrolled(honest, make_agent(f"honest-{number}"), key)).bus_token
        assert not task.done()
        task.cancel()
    assert f"requests passed over so far: too many come on {subjects.REGISTRAR_ACTIVATE}" in caplog.text
    for one in (honest, flooding, bus):
        await one.close()


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
