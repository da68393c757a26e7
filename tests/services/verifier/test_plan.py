"""When a worker looks at who is there: as soon as there is something new, and hardly ever else."""

import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.clock import unix_ms
from devtools.pool import eventually
from schemas import topology
from schemas.base import encode
from schemas.commands import WorkerStatus
from services.verifier import plan
from services.verifier.plan import Planner

WORKERS = topology.WORKERS.name
LIFETIME_S = 60.0


@pytest.fixture
async def planner(nats_server, bus):
    await ensure_topology(bus)
    listening = await connect(BusSettings(urls=[nats_server.url], name="planner"))
    planner = Planner(listening, "one", unix_ms, LIFETIME_S)
    await planner.follow()
    await listening.nc.flush()
    yield planner
    await listening.close()


async def announce(bus, worker, *, ttl_s=None, draining=False):
    status = WorkerStatus(
        worker=worker, started_at=1, partitions=[], agents=0, attestations=0, in_flight=0, draining=draining
    )
    await keyvalue.put(bus, WORKERS, worker, encode(status), expected=None, ttl_s=ttl_s)


async def members(planner):
    return set(await planner.look())


async def settled(planner):
    """Wait until a look asks nobody."""

    async def quiet():
        asked = planner._bus.nc.stats["out_msgs"]
        await planner.look()
        return planner._bus.nc.stats["out_msgs"] == asked

    await eventually(quiet)


@pytest.fixture
def patient(monkeypatch):
    """Without the look that comes after a second anyway."""
    monkeypatch.setattr(plan, "LOOK_S", 3600.0)


async def test_who_joins_leaves_or_drains_is_seen_without_asking_again_and_again(planner, bus, patient):
    await announce(bus, "one")
    await eventually(lambda: members_are(planner, {"one"}))
    await settled(planner)
    await announce(bus, "two")
    await eventually(lambda: members_are(planner, {"one", "two"}))
    await settled(planner)
    await announce(bus, "two", draining=True)
    await eventually(lambda: members_are(planner, {"one"}))
    await settled(planner)
    await announce(bus, "two")
    await eventually(lambda: members_are(planner, {"one", "two"}))
    await settled(planner)
    await keyvalue.delete(bus, WORKERS, "two")
    await eventually(lambda: members_are(planner, {"one"}))
    await settled(planner)


async def test_who_is_heard_no_more_is_looked_for_until_it_has_lapsed(planner, bus, patient):
    planner._silence_s = 0.5
    await announce(bus, "one")
    await announce(bus, "two", ttl_s=1)
    await eventually(lambda: members_are(planner, {"one", "two"}))

    async def one_is_left():
        await announce(bus, "one")
        return await members(planner) == {"one"}

    await eventually(one_is_left)


async def test_a_plan_of_another_worker_is_seen(planner, nats_server, bus, patient):
    await announce(bus, "one")
    await eventually(lambda: members_are(planner, {"one"}))
    await settled(planner)
    other = Planner(bus, "another", unix_ms, LIFETIME_S)
    await announce(bus, "another")
    # First in the alphabet: it is the one that plans.
    await eventually(lambda: members_are(other, {"another", "one"}))
    await eventually(lambda: members_are(planner, {"another", "one"}))


async def members_are(planner, expected):
    return await members(planner) == expected
