"""Workers that are killed, stalled and restarted with evidence in flight: nothing is lost, nobody is forgotten."""

import asyncio

from attestream.client.connection import Client
from devtools.observer import PATIENCE_S, storm
from devtools.pool import eventually


def every_tenth(fleet):
    return list(fleet.agents)[::10]


async def test_killed_with_evidence_in_flight(cluster, make_fleet, attest, observer):
    one, _ = await cluster.verifier("one"), await cluster.verifier("two")
    await cluster.notifier()
    fleet = await make_fleet(60)
    await attest(fleet, interval_ms=1000)
    bad, news = every_tenth(fleet), fleet.news
    raging = asyncio.create_task(storm(fleet, bad))
    await eventually(lambda: fleet.news > news + 5)
    one.kill()
    await raging
    await observer.all_are_judged(fleet, bad, {"two"})
    # What the dead worker had been given was given to its successor at once.
    await observer.evidence_is_settled()
    await observer.each_failure_is_revoked(bad)
    await observer.record_is_sound()


async def test_stalled_beyond_its_lease_and_then_awake(cluster, make_fleet, attest, observer):
    """A machine that was paused wakes up and believes that it still owns its agents: it must not write over anybody."""
    one, _ = await cluster.verifier("one"), await cluster.verifier("two")
    await cluster.notifier()
    fleet = await make_fleet(30)
    await attest(fleet, interval_ms=500)
    await observer.partitions_are_shared({"one", "two"})
    bad = every_tenth(fleet)
    one.freeze()
    await storm(fleet, bad)
    await observer.all_are_judged(fleet, bad, {"two"})
    one.thaw()
    await one.said("is lost to another worker")
    await observer.partitions_are_shared({"one", "two"})
    await observer.all_are_judged(fleet, bad, {"one", "two"})
    await observer.each_failure_is_revoked(bad)
    await observer.evidence_is_settled()
    await observer.record_is_sound()


async def test_killed_and_restarted_at_once_under_its_own_name(cluster, make_fleet, attest, observer):
    one = await cluster.verifier("one")
    await cluster.notifier()
    fleet = await make_fleet(30)
    await attest(fleet, interval_ms=500)
    bad, news = every_tenth(fleet), fleet.news
    raging = asyncio.create_task(storm(fleet, bad))
    await eventually(lambda: fleet.news > news + 5)
    one.kill()
    await one.restart()
    await raging
    await observer.all_are_judged(fleet, bad, {"one"})
    await observer.evidence_is_settled()
    await observer.each_failure_is_revoked(bad)
    await observer.record_is_sound()


async def test_one_drained_and_another_stalled_under_load(cluster, make_fleet, attest, observer, bus):
    """At most one owner at every moment: who is told to give away, who is paused and comes back, and who takes over."""
    one, two = await cluster.verifier("one"), await cluster.verifier("two")
    await cluster.verifier("three")
    await cluster.notifier()
    fleet = await make_fleet(45)
    await attest(fleet, interval_ms=500)
    await observer.partitions_are_shared({"one", "two", "three"})
    client = Client(bus)
    bad = every_tenth(fleet)
    raging = asyncio.create_task(storm(fleet, bad))
    draining = asyncio.create_task(client.drain_worker("two", timeout_s=PATIENCE_S))
    one.freeze()
    await raging
    assert (await draining).partitions == []
    await observer.all_are_judged(fleet, bad, {"three"})
    one.thaw()
    await one.said("is lost to another worker")
    await client.rebalance_workers(timeout_s=PATIENCE_S)
    await observer.partitions_are_shared({"one", "three"})
    two.kill()
    await observer.all_are_judged(fleet, bad, {"one", "three"})
    await observer.each_failure_is_revoked(bad)
    await observer.evidence_is_settled()
    await observer.record_is_sound()
