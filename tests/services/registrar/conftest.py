"""A registrar in this process on a real bus, and agents with software TPMs."""

import secrets

import pytest
from sqlalchemy import func, select

from attestream.bus import stored
from attestream.config import DatabaseUrl, LimitsConfig, RegistrarConfig
from attestream.database import open_engine, reading
from devtools.pool import eventually
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.enrolment import ActivateRequest, AgentQuery, EnrolChallenge, Enrolled, Identity
from schemas.events import Event, EventKind
from services.registrar.service import serving
from services.registrar.tables import challenge


class Clock:
    """A clock that stands still until it is moved. Milliseconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def database_url(request, tmp_path):
    """SQLite, unless the test is marked to run on every kind of database."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'registrar.db'}"
    return request.getfixturevalue("postgres_url" if kind == "postgresql" else "mariadb_url")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def config(database_url):
    return RegistrarConfig(database_url=DatabaseUrl(database_url), accept_ek="any")


@pytest.fixture
async def registrar(bus, config, clock):
    async with serving(bus, config, limits=LimitsConfig(enrolments_per_agent_min=10_000), clock=clock) as registrar:
        yield registrar


@pytest.fixture(scope="session")
def make_agent():
    """Makes agents, each with a new AK. Those of one ``machine`` share its EK."""
    pools: dict[str, KeyPool] = {}

    def make(agent_id: str, *, kind: str = "p256", machine: str = "") -> SoftAgent:
        keys = pools.setdefault(machine or secrets.token_hex(8), KeyPool(1))
        return SoftAgent(agent_id, SoftTpm(ek=kind, ak=kind, ak_policy=secrets.token_bytes(32), keys=keys))

    return make


@pytest.fixture
def enrol(bus):
    """Takes an agent through the whole enrolment, over the bus, as a real agent does."""

    async def run(agent: SoftAgent) -> Enrolled:
        request = agent.enrol_request()
        challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
        return await bus.request(subjects.REGISTRAR_ACTIVATE, activation(agent, request, challenge), Enrolled)

    return run


def activation(agent, request, challenge) -> ActivateRequest:
    return ActivateRequest(
        agent_id=agent.agent_id,
        challenge_id=challenge.challenge_id,
        proof=agent.proof(encode(request), encode(challenge)),
    )


@pytest.fixture
def activate(bus):
    """Sends an agent's proof of a challenge."""

    async def run(agent, request, challenge) -> Enrolled:
        return await bus.request(subjects.REGISTRAR_ACTIVATE, activation(agent, request, challenge), Enrolled)

    return run


@pytest.fixture
def events(bus):
    """Returns every event on the record about an agent, in order."""

    async def read(agent_id: str) -> list[Event]:
        batch = await stored.get_batch(
            bus, topology.EVENTS.name, {"seq": 1, "batch": 1000, "next_by_subj": subjects.events_of(agent_id)}
        )
        return [decode(message.data, Event) for message in batch.messages]

    return read


@pytest.fixture
def on_record(events):
    """Waits until the events about an agent are of these kinds and enrolment numbers."""

    async def wait(agent_id: str, *wanted: tuple[EventKind, int]) -> None:
        async def there() -> bool:
            return [(event.kind, event.enrolment) for event in await events(agent_id)] == list(wanted)

        await eventually(there)

    return wait


@pytest.fixture
def identity(bus):
    """Asks the registrar who an agent is."""

    async def ask(agent_id: str) -> Identity:
        return await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=agent_id), Identity)

    return ask


@pytest.fixture
def challenge_of(bus):
    """Has the registrar challenge an agent."""

    async def ask(agent, request) -> EnrolChallenge:
        return await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)

    return ask


@pytest.fixture
def pending(database_url):
    """Counts the pending challenges in the database."""

    async def count() -> int:
        engine = open_engine(database_url)
        async with reading(engine) as connection:
            number = (await connection.execute(select(func.count()).select_from(challenge))).scalar_one()
        await engine.dispose()
        return number

    return count
