"""The database dies in the middle of enrolments: each party is told, and what is repeated succeeds once."""

import pytest

from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.errors import StorageError
from devtools.mariadb import MariaDb
from devtools.pool import eventually
from devtools.postgres import Postgres
from schemas import subjects
from schemas.enrolment import AgentQuery, EnrolChallenge, Identity
from schemas.events import EventKind
from services.registrar.service import serving


@pytest.fixture(params=[Postgres, MariaDb])
def server(request):
    server = request.param()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def registrar(bus, server, clock):
    config = RegistrarConfig(database_url=DatabaseUrl(server.new_database()), accept_ek="any")
    async with serving(bus, config, clock=clock) as registrar:
        yield registrar


async def ask(bus, agent):
    request = agent.enrol_request()
    return request, await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)


async def test_an_enrolment_that_the_database_interrupts_can_be_repeated(
    server, registrar, bus, make_agent, enrol, activate, events
):
    before, asking, proving, after = (make_agent(name) for name in ("before", "asking", "proving", "after"))
    await enrol(before)
    request, challenge = await ask(bus, proving)

    server.crash()
    with pytest.raises(StorageError, match="does not answer") as refused:
        await ask(bus, asking)
    assert "repeated" in refused.value.hint
    with pytest.raises(StorageError, match="does not answer"):
        await activate(proving, request, challenge)

    server.start()
    # The challenge was not used up: the same proof is good.
    assert (await activate(proving, request, challenge)).enrolment == 1
    for agent in (asking, after):
        assert (await enrol(agent)).enrolment == 1
    for agent in (before, asking, proving, after):
        found = await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=agent.agent_id), Identity)
        assert found.enrolment == 1

        async def recorded(agent_id=agent.agent_id):
            return await events(agent_id)

        assert [event.kind for event in await eventually(recorded, 30)] == [EventKind.ENROLLED]
