"""A cluster of real processes, and those who deal with it from outside: a tenant, a fleet, a webhook receiver."""

import shutil

import pytest

from devtools.cluster import Cluster
from devtools.observer import Observer
from devtools.pool import Tenant, allowing, make_agent
from devtools.soft_fleet import SoftFleet
from devtools.swtpm import Swtpm
from devtools.webhook_receiver import WebhookReceiver
from schemas.events import Standing

QUICK = {
    "verifier": {"lease_floor_s": 3.0, "challenge_timeout_ms": 1000, "flush_ms": 50},
    "bus": {"reconnect_spread_s": 0.2},
}


@pytest.fixture
def make_cluster(nats_server, bus, tmp_path):
    """Makes clusters; ``bus`` is asked for so that the streams exist before anything is watched."""
    made = []

    def make(database=None, **sections):
        merged = {name: {**QUICK.get(name, {}), **sections.get(name, {})} for name in QUICK.keys() | sections.keys()}
        made.append(Cluster(tmp_path, nats_server.url, database=database, sections=merged))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster):
    """A cluster with an SQLite database for each service."""
    return make_cluster()


@pytest.fixture
def observer(bus, cluster):
    return Observer(bus, cluster.signer.public_pem)


@pytest.fixture
def tenant(bus):
    return Tenant(bus)


@pytest.fixture
async def make_fleet(bus):
    """Makes fleets of software agents that are enrolled already."""
    made = []

    async def make(count, kind=SoftFleet):
        fleet = kind(bus, [make_agent(f"agent-{number:03}") for number in range(count)])
        await fleet.start()
        await fleet.serve_identities()
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        await fleet.stop()


@pytest.fixture
def attest(tenant):
    """Puts every agent of a fleet under attestation and waits until all are trusted."""

    async def put(fleet, **times):
        outcome = await tenant.push("base", allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat"))
        assert outcome.ok, outcome.message
        for agent_id in fleet.agents:
            outcome = await tenant.add(agent_id, **times)
            assert outcome.ok, outcome.message
        for agent_id in fleet.agents:
            await tenant.becomes(agent_id, Standing.TRUSTED, 60)

    return put


@pytest.fixture
async def receiver():
    """A webhook receiver."""
    receiver = WebhookReceiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest.fixture(scope="session")
def manufactured(tmp_path_factory):
    """State directories of two TPMs that were made and are not running."""
    states = [tmp_path_factory.mktemp(f"manufactured-{number}") for number in range(2)]
    for state in states:
        Swtpm.launch(state).stop()
    return states


@pytest.fixture
def tpms(manufactured, tmp_path):
    """Two running TPMs of this test alone."""
    made = []
    for number, state in enumerate(manufactured):
        copy = tmp_path / f"swtpm-{number}"
        shutil.copytree(state, copy)
        made.append(Swtpm.launch(copy))
    yield made
    for tpm in made:
        tpm.stop()
