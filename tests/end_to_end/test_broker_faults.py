"""The broker is killed under load and comes back on the same store: every service finds its way by itself."""

import asyncio

from attestream.clock import unix_ms
from devtools.observer import storm
from devtools.pool import eventually


async def test_killed_and_restarted_with_evidence_in_flight(cluster, nats_server, make_fleet, attest, observer, receiver):
    services = [await cluster.verifier("one"), await cluster.verifier("two"), await cluster.notifier(receiver.url)]
    fleet = await make_fleet(60)
    await attest(fleet, interval_ms=500)
    pids = [service.pid for service in services]
    bad, news = list(fleet.agents)[::10], fleet.news
    raging = asyncio.create_task(storm(fleet, bad))
    await eventually(lambda: fleet.news > news + 5)
    nats_server.kill()
    nats_server.start()
    await raging
    await observer.all_are_judged(fleet, bad, {"one", "two"})
    await observer.partitions_are_shared({"one", "two"})
    await observer.evidence_is_settled()
    revoked = await observer.each_failure_is_revoked(bad)
    await observer.record_is_sound()
    await eventually(lambda: sorted(receiver.ids) == sorted(revoked), 20)
    assert [service.pid for service in services if service.alive] == pids


async def test_away_for_longer_than_a_lease(cluster, nats_server, make_fleet, attest, observer):
    """Sessions of workers lapse meanwhile: after the restart others are begun, and nobody is forgotten."""
    services = [await cluster.verifier("one"), await cluster.verifier("two")]
    fleet = await make_fleet(20)
    await attest(fleet, interval_ms=500)
    nats_server.kill()
    for service in services:
        await service.said("the pool is out of reach")
    nats_server.start()
    back = unix_ms()
    await observer.partitions_are_shared({"one", "two"})
    await observer.all_are_renewed(fleet.agents, back)
    assert all(service.alive for service in services)
