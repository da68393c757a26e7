"""The registrar as a process of its own, killed at chosen points of its flow and started again."""

import asyncio
import os
import signal
import sys
import time

import pytest

from attestream.bus import jetstream
from attestream.bus.topology import ensure_topology
from attestream.database import open_engine, reading
from attestream.errors import AttestreamError, TimedOutError
from schemas import subjects, topology
from schemas.base import encode
from schemas.enrolment import ActivateRequest, AgentQuery, AgentsQuery, EnrolChallenge, Enrolled, Identity, IdentityPage
from schemas.events import EventKind
from services.registrar.tables import outbox


class Process:
    """`python -m services.registrar`, which can be killed and started again."""

    def __init__(self, bus, config_file) -> None:
        self._bus = bus
        self._config = config_file
        self._process = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.registrar", "--config", str(self._config)
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                query = AgentsQuery(limit=1)
                await self._bus.request(subjects.QUERY_REGISTRAR_AGENTS, query, IdentityPage, timeout_s=0.5)
            except TimedOutError:
                assert self._process.returncode is None, "the registrar did not start"
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            else:
                return

    async def kill(self) -> None:
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._process.wait()


@pytest.fixture
async def process(bus, nats_server, database_url, tmp_path):
    config = tmp_path / "attestream.toml"
    config.write_text(
        f'[bus]\nurls = ["{nats_server.url}"]\nreconnect_spread_s = 0.1\n[trust]\nunsigned = true\n'
        f'[registrar]\ndatabase_url = "{database_url}"\naccept_ek = "any"\n'
    )
    process = Process(bus, config)
    await process.start()
    yield process
    await process.kill()


async def rows_in_outbox(database_url) -> int:
    engine = open_engine(database_url)
    async with reading(engine) as connection:
        rows = (await connection.execute(outbox.select())).all()
    await engine.dispose()
    return len(rows)


async def test_killed_between_challenge_and_proof(process, bus, make_agent, activate):
    agent = make_agent("a")
    request = agent.enrol_request()
    challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
    await process.kill()
    await process.start()
    assert (await activate(agent, request, challenge)).enrolment == 1


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)
async def test_killed_between_commit_and_event(process, bus, make_agent, enrol, events, database_url):
    """The stream is away, so that the event can not be published before the kill."""
    await jetstream.call(bus, f"STREAM.DELETE.{topology.EVENTS.name}")
    await enrol(make_agent("a"))
    await process.kill()
    assert await rows_in_outbox(database_url) == 1
    await ensure_topology(bus)
    await process.start()
    deadline = time.monotonic() + 60
    while not (found := await events("a")) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert [(event.kind, event.enrolment) for event in found] == [(EventKind.ENROLLED, 1)]


async def test_broker_killed_between_commit_and_event(process, bus, nats_server, make_agent, enrol, events):
    await jetstream.call(bus, f"STREAM.DELETE.{topology.EVENTS.name}")
    await enrol(make_agent("a"))
    nats_server.kill()
    nats_server.start()
    await ensure_topology(bus)
    deadline = time.monotonic() + 60
    while not (found := await events("a")) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert [(event.kind, event.enrolment) for event in found] == [(EventKind.ENROLLED, 1)]


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)
async def test_killed_again_and_again_while_agents_enrol(process, bus, make_agent, events):
    """Wherever the kills hit: every agent ends up enrolled once, as its agent believes, with one event each."""
    agents = {f"agent-{number}": make_agent(f"agent-{number}") for number in range(30)}
    done: dict[str, int] = {}

    async def persist(agent) -> None:
        while agent.agent_id not in done:
            try:
                request = agent.enrol_request()
                challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge, timeout_s=0.5)
                proof = ActivateRequest(
                    agent_id=agent.agent_id,
                    challenge_id=challenge.challenge_id,
                    proof=agent.proof(encode(request), encode(challenge)),
                )
                enrolled = await bus.request(subjects.REGISTRAR_ACTIVATE, proof, Enrolled, timeout_s=0.5)
                done[agent.agent_id] = enrolled.enrolment
            except AttestreamError:
                await asyncio.sleep(0.01)

    async def work() -> None:
        gate = asyncio.Semaphore(3)

        async def one(agent) -> None:
            async with gate:
                await persist(agent)

        await asyncio.gather(*(one(agent) for agent in agents.values()))

    working = asyncio.create_task(work())
    for goal in (2, 9, 17, 25):
        while len(done) < goal and not working.done():
            await asyncio.sleep(0)
        await process.kill()
        await process.start()
    await asyncio.wait_for(working, 60)
    assert done == dict.fromkeys(agents, 1)
    deadline = time.monotonic() + 40
    for name, agent in agents.items():
        identity = await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=name), Identity)
        assert identity.ak_public == agent.tpm.ak_public
        while not (found := await events(name)) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert [(event.kind, event.enrolment) for event in found] == [(EventKind.ENROLLED, 1)]


async def test_stops_in_order(process):
    assert await process.stop() == 0
