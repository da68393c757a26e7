"""Workers that join, leave, are drained and steered: agents follow them by load, and nobody is without an owner for long."""

import asyncio
import itertools

import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.client.connection import Client
from attestream.clock import unix_ms
from attestream.config import VerifierConfig
from attestream.errors import ConfigError, ForbiddenError, RefusedError
from devtools.pool import Pool, Tenant, allowing, eventually, make_agent
from devtools.roster_keys import RosterKeys
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.base import decode
from schemas.commands import PoolPlan
from schemas.events import EventKind, Standing

INTERVAL_MS = 2000
BAD = (EventKind.LAPSED, EventKind.UNREACHABLE, EventKind.FAILED, EventKind.RECOVERED)


class Attestations:
    """Notes when each agent was attested: the number of the evidence that counted last is the time of its challenge."""

    LOOK_S = 0.05

    def __init__(self, pool, intervals_ms):
        self._pool = pool
        self._intervals_ms = intervals_ms
        self._times = {agent_id: set() for agent_id in intervals_ms}
        self._began = unix_ms()
        self._task = asyncio.create_task(self._look())

    async def _look(self):
        while True:
            for worker in self._pool.workers:
                for agent_id, times in self._times.items():
                    attester = worker.attester(agent_id)
                    if attester is not None and attester.accepted >= self._began:
                        times.add(attester.accepted)
            await asyncio.sleep(self.LOOK_S)

    async def longest_gap(self):
        """Return the longest time between two attestations of an agent, from the first look until now, in its intervals."""
        now = unix_ms()
        await eventually(lambda: all(max(times, default=0) >= now for times in self._times.values()), 60)
        self._task.cancel()
        return max(
            (after - before) / self._intervals_ms[agent_id]
            for agent_id, times in self._times.items()
            for before, after in itertools.pairwise(sorted({self._began, *times}))
        )


@pytest.fixture
def settings():
    return VerifierConfig(lease_floor_s=10, challenge_timeout_ms=2000, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def fleet(bus):
    # The partitions are as unequal as chance makes them: some have no agent, some have five.
    fleet = SoftFleet(bus, [make_agent(f"agent-{number}") for number in range(96)])
    await fleet.start()
    await fleet.serve_identities()
    yield fleet
    await fleet.stop()


async def attested(tenant, fleet):
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    intervals_ms = {agent_id: INTERVAL_MS + 1000 * (number % 3) for number, agent_id in enumerate(fleet.agents)}
    for agent_id, interval_ms in intervals_ms.items():
        assert (await tenant.add(agent_id, interval_ms=interval_ms)).ok
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)
    return intervals_ms


def even(*workers):
    loads = [sum(worker.status().loads) for worker in workers]
    mean = sum(loads) / len(loads)
    owned = sum(len(worker.status().partitions) for worker in workers)
    return owned == subjects.PARTITIONS and all(abs(load - mean) <= 0.1 * mean for load in loads)


async def nobody_suffered(tenant, fleet):
    for agent_id in list(fleet.agents)[::8]:
        assert not {event.kind for event in await tenant.events(agent_id)} & set(BAD)


@pytest.mark.alone
async def test_load_is_even_after_joins_leaves_and_a_drain_and_no_agent_misses_two_attestations(pool, tenant, fleet, bus):
    one = await pool.start("one")
    attestations = Attestations(pool, await attested(tenant, fleet))
    client = Client(bus)
    two = await pool.start("two")
    await eventually(lambda: even(one, two), 60)
    three = await pool.start("three")
    await eventually(lambda: even(one, two, three), 60)

    status = await client.drain_worker("two", timeout_s=60)
    assert status.draining
    assert status.partitions == []
    assert two.status().agents == 0
    await eventually(lambda: even(one, three), 60)
    await pool.stop("three")
    await eventually(lambda: len(one.status().partitions) == subjects.PARTITIONS, 60)
    assert two.status().partitions == []
    assert (await client.undrain_worker("two")).worker == "two"
    await eventually(lambda: even(one, two), 60)
    await client.rebalance_workers()
    await eventually(lambda: even(one, two), 60)
    assert await attestations.longest_gap() <= 2
    await nobody_suffered(tenant, fleet)
    kinds = [event.kind for event in await tenant.events("two")]
    assert [kind for kind in kinds if kind is not EventKind.WORKERS_REBALANCED] == [
        EventKind.WORKER_DRAINED,
        EventKind.WORKER_UNDRAINED,
    ]


async def test_the_last_worker_is_not_drained_and_a_restarted_one_takes_part_again(pool, tenant, bus):
    await pool.start("one")
    client = Client(bus)

    async def alive():
        return [status.worker for status in await client.workers()]

    await eventually(alive)
    with pytest.raises(RefusedError, match="no other worker"):
        await client.drain_worker("one")
    with pytest.raises(RefusedError, match="no worker"):
        await client.drain_worker("nine")
    two = await pool.start("two")
    await eventually(lambda: len(two.status().partitions) == 32, 60)
    await client.drain_worker("two", timeout_s=60)
    with pytest.raises(RefusedError, match="no other worker"):
        await client.drain_worker("one")
    await pool.stop("two")
    two = await pool.start("two")
    await eventually(lambda: len(two.status().partitions) == 32, 60)


async def test_rebalance_moves_what_has_grown_uneven(pool, tenant, fleet, bus):
    one, two = await pool.start("one"), await pool.start("two")
    await eventually(lambda: len(one.status().partitions) == len(two.status().partitions) == 32, 60)
    await attested(tenant, fleet)
    client = Client(bus)
    plan = (await keyvalue.entries(bus, topology.LEASES.name, topology.KEY_PLAN))[topology.KEY_PLAN]
    assert decode(plan.value, PoolPlan).members == ["one", "two"]
    moves = await client.rebalance_workers()
    await eventually(lambda: even(one, two), 60)
    assert await client.rebalance_workers() <= moves
    [event, _] = [event for name in ("one", "two") for event in await tenant.events(name)]
    assert event.kind is EventKind.WORKERS_REBALANCED


async def test_a_plan_that_can_not_be_read_is_replaced(pool, bus):
    one = await pool.start("one")
    await eventually(lambda: len(one.status().partitions) == 64, 60)
    await keyvalue.put(bus, topology.LEASES.name, topology.KEY_PLAN, b"rubbish", expected=None)

    async def replaced():
        found = await keyvalue.entries(bus, topology.LEASES.name, topology.KEY_PLAN)
        return found[topology.KEY_PLAN].value != b"rubbish"

    await eventually(replaced)
    assert len(one.status().partitions) == 64


async def test_only_admins_and_operators_steer_and_the_record_names_them(nats_server, bus, tmp_path, settings):
    keys = RosterKeys(tmp_path / "keys")
    await keys.publish(bus)
    pool = Pool(nats_server.url, tmp_path, settings, trust=lambda: keys.trust("verifier"))
    clients = {}
    for name in ("olga", "paul", "otto"):
        own = await connect(BusSettings(urls=[nats_server.url], name=name))
        await keys.trust(name).start(own)
        clients[name] = Client(own)
    await pool.start("one")
    two = await pool.start("two")
    await eventually(lambda: len(two.status().partitions) == 32, 60)
    for name in ("paul", "otto"):
        with pytest.raises(ForbiddenError):
            await clients[name].drain_worker("two")
        with pytest.raises(ForbiddenError):
            await clients[name].rebalance_workers()
    with pytest.raises(RefusedError):
        await Client(bus).drain_worker("two")
    assert not two.status().draining
    await clients["olga"].drain_worker("two", timeout_s=60)
    [event] = await Tenant(bus).events("two")
    assert (event.kind, event.actor) == (EventKind.WORKER_DRAINED, "olga")
    assert event.actor_key == keys.signers["olga"].key_id
    for client in clients.values():
        await client.close()
    await pool.close()


async def test_a_worker_of_another_installation_does_not_join_the_pool(nats_server, bus, tmp_path, settings):
    """Two clusters that share a bus by accident: the second does not start, and takes no partition."""
    ours, theirs = RosterKeys(tmp_path / "ours"), RosterKeys(tmp_path / "theirs", installation="other")
    await ours.publish(bus)
    pool = Pool(nats_server.url, tmp_path, settings, trust=lambda: ours.trust("verifier"))
    one = await pool.start("one")
    await eventually(lambda: len(one.status().partitions) == 64, 60)
    strangers = Pool(nats_server.url, tmp_path / "theirs", settings, trust=lambda: theirs.trust("verifier"))
    with pytest.raises(ConfigError, match="another installation"):
        await strangers.start("two")
    assert set(await keyvalue.entries(bus, topology.WORKERS.name)) == {"one"}
    assert len(one.status().partitions) == 64
    await strangers.close()
    await pool.close()
