"""Revocations reach a receiver that was down, through a notifier that was killed."""

from devtools.observer import storm
from devtools.pool import eventually


async def test_ten_agents_fail_while_the_receiver_is_down(cluster, make_fleet, attest, observer, receiver):
    await cluster.verifier("one")
    notifier = await cluster.notifier(receiver.url)
    fleet = await make_fleet(20)
    await attest(fleet, interval_ms=5000)
    await receiver.stop()
    bad = list(fleet.agents)[:10]
    await storm(fleet, bad)
    await observer.each_failure_is_revoked(bad)
    notifier.kill()
    await notifier.restart()
    await receiver.start()
    revoked = [revocation.id for revocation in await observer.revocations()]
    await eventually(lambda: len(receiver.ids) == len(bad), 30)
    assert receiver.ids == revoked


async def test_the_notifier_is_killed_while_agents_fail(cluster, make_fleet, attest, observer, receiver):
    await cluster.verifier("one")
    notifier = await cluster.notifier(receiver.url)
    fleet = await make_fleet(20)
    await attest(fleet, interval_ms=5000)
    bad = list(fleet.agents)[:10]
    await storm(fleet, bad)
    await eventually(lambda: receiver.documents)
    notifier.kill()
    await notifier.restart()
    revoked = await observer.each_failure_is_revoked(bad)
    await eventually(lambda: sorted(receiver.ids) == sorted(revoked), 30)
