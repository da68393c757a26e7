"""Silence is never a pass: what becomes of results and of waiting evidence when every verifier is dead."""

import sqlite3
from contextlib import closing

from attestream.client import connect, unverified
from attestream.clock import unix_ms
from devtools.observer import BAD, storm
from devtools.pool import eventually
from devtools.soft_fleet import SoftFleet
from schemas.events import EventKind, Standing


class SlowFleet(SoftFleet):
    """Agents whose evidence can be kept back on its way."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.kept = None

    async def publish(self, evidence):
        if self.kept is None:
            await super().publish(evidence)
        else:
            self.kept.append(evidence)


def standings(cluster):
    """Return what the agents' rows tell of them."""
    with closing(sqlite3.connect(cluster.database("verifier").removeprefix("sqlite:///"))) as connection:
        return [standing for (standing,) in connection.execute("SELECT standing FROM verifier_attesters")]


async def test_results_lapse_and_the_broker_itself_tells_a_durable_subscriber(
    cluster, nats_server, make_fleet, attest, tenant, observer
):
    """CVE-2022-3500, keylime#1091: a dead verifier must not leave its last good verdict standing."""
    one = await cluster.verifier("one")
    fleet = await make_fleet(3)
    await attest(fleet, interval_ms=500)
    one.kill()
    async with connect(nats_server.url, trust=unverified()) as client:
        lapsed = set()
        async for result in client.results(durable="siem"):
            if result.result is None:
                assert result.standing is Standing.UNKNOWN
                lapsed.add(result.agent_id)
            await result.ack()
            if lapsed == fleet.agents.keys():
                break
    await one.restart()
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED, 60)
        kinds = [event.kind for event in await observer.record(agent_id=agent_id)]
        assert kinds == [EventKind.ADDED, EventKind.TRUSTED, EventKind.LAPSED, EventKind.RECOVERED]


async def test_evidence_that_waited_for_a_verifier_ends_trust_but_never_renews_it(
    cluster, make_fleet, attest, tenant, observer
):
    """Its freshness is that of its arrival: a failing fact counts however late, a passing one says nothing of now."""
    one = await cluster.verifier("one")
    await cluster.notifier()
    fleet = await make_fleet(2, SlowFleet)
    await attest(fleet, interval_ms=60_000, lease_ms=60_000)
    # What a row does not tell yet is asked for again, and here nobody would answer.
    await eventually(lambda: standings(cluster) == ["trusted", "trusted"])
    bad, good = fleet.agents
    before = await tenant.result(good)
    fleet.kept = []
    await storm(fleet, [bad])
    await eventually(lambda: len(fleet.kept) == 2)
    one.kill()
    fleet.silent |= {bad, good}
    kept, fleet.kept = fleet.kept, None
    for evidence in kept:
        await fleet.publish(evidence)
    window_ms = 2 * 1000
    await eventually(lambda: unix_ms() > max(evidence.issued_at for evidence in kept) + window_ms + 500)
    await one.restart()
    await tenant.becomes(bad, Standing.FAILED, 60)
    [failed] = await observer.record(EventKind.FAILED)
    assert [found.culprit for found in failed.findings] == [BAD]
    await observer.each_failure_is_revoked([bad])
    await observer.evidence_is_settled()
    assert (await tenant.result(good)).expires_at == before.expires_at
    assert [event.kind for event in await observer.record(agent_id=good)] == [EventKind.ADDED, EventKind.TRUSTED]
