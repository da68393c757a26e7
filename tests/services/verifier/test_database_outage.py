"""The database dies under a pool of verifiers: judgement goes on, what must be written waits, and nothing is lost."""

import asyncio
import logging
import uuid

import pytest

from devtools.mariadb import MariaDb
from devtools.pool import Pool, allowing, digest_of, eventually
from devtools.postgres import Postgres
from schemas.commands import StopAgent
from schemas.events import Standing
from schemas.subjects import PARTITIONS

POLICY = allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat")
EVIL = "/usr/bin/evil"


@pytest.fixture(params=[Postgres, MariaDb])
def server(request):
    server = request.param()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def pool(nats_server, tmp_path, settings, server):
    pool = Pool(nats_server.url, tmp_path, settings, server.new_database())
    yield pool
    await pool.close()


async def under_attestation(pool, tenant, fleet):
    await pool.start("one")
    assert (await tenant.push("base", POLICY)).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, interval_ms=300, lease_ms=2000)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED, 30)


async def test_judgement_goes_on_and_rows_follow(server, pool, tenant, fleet, caplog):
    await under_attestation(pool, tenant, fleet)
    with caplog.at_level(logging.WARNING):
        server.crash()
        fleet.agents["agent-0"].run(EVIL, digest_of(EVIL))
        await tenant.becomes("agent-0", Standing.FAILED, 30)
        stopping = asyncio.create_task(
            tenant.command("agent-1", StopAgent(command_id=uuid.uuid4().hex, agent_id="agent-1"), 60)
        )
        await eventually(lambda: "this is said once" in caplog.text, 30)
        seen = (await tenant.result("agent-2")).seq

        async def attested_meanwhile():
            result = await tenant.result("agent-2")
            return result is not None and result.seq > seen

        await eventually(attested_meanwhile, 30)
        server.start()

        async def written():
            rows = {row.agent_id: row.standing for row in await pool.store.page("", 10)}
            return rows == {"agent-0": "failed", "agent-1": "stopped", "agent-2": "trusted"}

        assert (await stopping).ok
        await eventually(written, 30)
        await eventually(lambda: "the database answers again" in caplog.text, 30)
    assert caplog.text.count("rows are not saved") <= 1


async def test_agents_of_a_worker_that_dies_during_the_outage_are_taken_over_after_it(server, pool, tenant, fleet, caplog):
    await under_attestation(pool, tenant, fleet)
    one, other = pool.workers[0], await pool.start("two")
    # How many each gets follows from the agents' loads, which differ.
    await eventually(lambda: one.status().partitions and other.status().partitions)
    server.crash()
    await pool.cut("one")
    await eventually(lambda: "can not be opened" in caplog.text, 60)
    server.start()
    await eventually(lambda: len(other.status().partitions) == PARTITIONS, 60)
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED, 60)
    assert caplog.text.count("can not be opened") < PARTITIONS
