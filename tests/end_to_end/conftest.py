"""A cluster of real processes, and those who watch it from outside: a tenant, a fleet, a webhook receiver."""

import shutil

import pytest

from attestream.bus import stored
from attestream.signing import TrustedKeys
from devtools.cluster import Cluster
from devtools.pool import Tenant, allowing, make_agent
from devtools.soft_fleet import SoftFleet
from devtools.swtpm import Swtpm
from devtools.webhook_receiver import WebhookReceiver
from schemas import topology
from schemas.base import decode
from schemas.events import Event, EventKind, Revocation, Signed

QUICK = {
    "verifier": {"lease_floor_s": 3.0, "challenge_timeout_ms": 1000, "flush_ms": 50},
    "bus": {"reconnect_spread_s": 0.2},
}


@pytest.fixture
def make_cluster(nats_server, bus, tmp_path):
    """Makes clusters; ``bus`` is asked for so that streams exist before anything is watched."""
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
    return make_cluster()


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
async def receiver():
    receiver = WebhookReceiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest.fixture(scope="session")
def manufactured(tmp_path_factory):
    """State directory of a TPM that was made and is not running."""
    state = tmp_path_factory.mktemp("manufactured")
    Swtpm.launch(state).stop()
    return state


@pytest.fixture
def make_tpm(manufactured, tmp_path):
    """Makes running TPMs. They share an EK, as copies of one state do: only one of them may enrol under an id."""
    made = []

    def make():
        state = tmp_path / f"swtpm-{len(made)}"
        shutil.copytree(manufactured, state)
        made.append(Swtpm.launch(state))
        return made[-1]

    yield make
    for tpm in made:
        tpm.stop()


@pytest.fixture
def record(bus):
    """Reads the whole record: every event about everybody, in order."""

    async def read(*kinds):
        events = [
            decode(message.data, Event)
            for message in await _everything(bus, topology.EVENTS.name, "att.event.*.*")
            if ".fence." not in message.subject
        ]
        return [event for event in events if not kinds or event.kind in kinds]

    return read


@pytest.fixture
def revocations(bus):
    """Reads all revocations of a cluster, their signatures verified, in order."""

    async def read(cluster):
        keys = TrustedKeys.from_pems([cluster.signer.public_pem])
        messages = await _everything(bus, topology.REVOCATIONS.name, ">")
        return [keys.open(decode(message.data, Signed), Revocation) for message in messages]

    return read


@pytest.fixture
def failures(record):
    """Reads the ids of all failing transitions, in order."""

    async def read():
        return [event.id for event in await record(EventKind.FAILED)]

    return read


async def _everything(bus, stream, subject):
    found = []
    start = 1
    while True:
        batch = await stored.get_batch(bus, stream, {"seq": start, "batch": 500, "next_by_subj": subject})
        if not batch.messages:
            return found
        found += batch.messages
        start = found[-1].sequence + 1


@pytest.fixture
def under_attestation(tenant):
    """Puts every agent of a fleet under attestation and waits until all are trusted."""

    async def put(fleet, policy=None, **times):
        outcome = await tenant.push("base", policy or allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat"))
        assert outcome.ok, outcome.message
        for agent_id in fleet.agents:
            outcome = await tenant.add(agent_id, **times)
            assert outcome.ok, outcome.message
        await all_are(tenant, fleet.agents, "trusted")

    return put


async def all_are(tenant, agent_ids, standing, timeout_s=20.0):
    for agent_id in agent_ids:
        await tenant.becomes(agent_id, standing, timeout_s)
