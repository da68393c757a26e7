"""A pool of workers on a real bus and a real database, with three software agents."""

import pytest

from attestream.config import VerifierConfig
from devtools.pool import Pool, Tenant, make_agent
from devtools.soft_fleet import SoftFleet


@pytest.fixture
def settings():
    return VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def pool(nats_server, bus, tmp_path, settings):
    pool = Pool(nats_server.url, tmp_path, settings)
    yield pool
    await pool.close()


@pytest.fixture
async def tenant(bus):
    return Tenant(bus)


@pytest.fixture
async def fleet(bus):
    fleet = SoftFleet(bus, [make_agent(f"agent-{number}") for number in range(3)])
    await fleet.start()
    await fleet.serve_identities()
    yield fleet
    await fleet.stop()
