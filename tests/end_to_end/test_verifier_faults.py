"""Verifier workers that are killed, stalled and restarted with evidence in flight: nothing is lost, nobody is forgotten."""

import asyncio
from collections import Counter

import pytest

from attestream.bus import jetstream
from devtools.pool import digest_of, eventually
from schemas import topology
from schemas.events import EventKind, Standing

BAD = "/usr/bin/evil"
GOOD = "/usr/bin/ls"


async def attack(fleet, bad_ones):
    """Every agent runs something at the same moment; the bad ones run what no policy allows."""
    for agent_id, agent in fleet.agents.items():
        path = BAD if agent_id in bad_ones else GOOD
        agent.run(path, digest_of(path))
    await asyncio.gather(*(fleet.notice(agent_id) for agent_id in fleet.agents))


async def every_one_is_judged(tenant, fleet, bad_ones, workers, timeout_s=20.0):
    """Every agent has a result of one of ``workers``: failed where it is bad, otherwise trusted."""

    async def judged(agent_id):
        result = await tenant.result(agent_id)
        wanted = Standing.FAILED if agent_id in bad_ones else Standing.TRUSTED
        return result is not None and result.standing is wanted and result.worker in workers

    for agent_id in fleet.agents:
        await eventually(lambda agent_id=agent_id: judged(agent_id), timeout_s)


async def each_failure_is_revoked_once(cluster, failures, revocations, bad_ones, timeout_s=20.0):
    failed = await failures()
    assert sorted(id_.partition(":")[0] for id_ in failed) == sorted(bad_ones)

    async def delivered():
        return {revocation.id for revocation in await revocations(cluster)} == set(failed)

    await eventually(delivered, timeout_s)


async def evidence_is_settled(bus, timeout_s=10.0):
    """Nothing waits on the stream: whatever the dead worker had been given was given to its successor at once."""

    async def empty():
        info = await jetstream.call(bus, f"STREAM.INFO.{topology.EVIDENCE.name}")
        return info["state"]["messages"] == 0

    await eventually(empty, timeout_s)


async def event_ids_are_unique(record):
    counted = Counter(event.id for event in await record())
    assert [id_ for id_, count in counted.items() if count > 1] == []


async def test_a_worker_killed_with_evidence_in_flight(
    bus, cluster, make_fleet, under_attestation, tenant, record, failures, revocations
):
    one, _ = await cluster.verifier("one"), await cluster.verifier("two")
    await cluster.notifier()
    fleet = await make_fleet(60)
    await under_attestation(fleet, interval_ms=1000)
    bad_ones = set(list(fleet.agents)[::10])
    news = fleet.news
    storm = asyncio.create_task(attack(fleet, bad_ones))
    await eventually(lambda: fleet.news > news + 5)
    one.kill()
    await storm
    await every_one_is_judged(tenant, fleet, bad_ones, {"two"})
    await evidence_is_settled(bus)
    await each_failure_is_revoked_once(cluster, failures, revocations, bad_ones)
    await event_ids_are_unique(record)
