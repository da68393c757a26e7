"""More agents than a worker can attest: all are asked less often, none is lost, and it is said."""

import time
import uuid

import pytest

from attestream.config import VerifierConfig
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas.commands import Attestation, UpdateAgent
from schemas.events import EventKind, Standing
from services.verifier import overload
from services.verifier.overload import END_MS, FASTEST, START_MS, Overload, Pace

HARM = {EventKind.LAPSED, EventKind.UNREACHABLE, EventKind.FAILED, EventKind.REFUSED}


@pytest.fixture
def settings():
    return VerifierConfig(lease_floor_s=8, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


def slow_down(worker, seconds):
    """Have each appraisal hold the worker up for so long, as a slow machine would."""
    desk, appraise = worker.services.desk, type(worker.services.desk)._appraise

    def slow(attester, evidence, now):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return appraise(desk, attester, evidence, now)

    desk._appraise = slow


async def attested(pool, tenant, fleet, **times):
    await fleet.start()
    await fleet.serve_identities()
    worker = await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in fleet.agents:
        assert (await tenant.add(agent_id, **times)).ok
    await eventually(lambda: trusted(worker) == len(fleet.agents), 30)
    return worker


def trusted(worker):
    return sum(attester.standing is Standing.TRUSTED for attester in worker._roster.values())


def counts(worker):
    return {agent_id: attester.attestations for agent_id, attester in worker._roster.items()}


@pytest.mark.alone
async def test_overload_lengthens_all_intervals_alike_and_ends(pool, tenant, bus, monkeypatch):
    monkeypatch.setattr(overload, "END_MS", 500)
    fleet = SoftFleet(bus, [make_agent(f"agent-{number:03}") for number in range(100)])
    worker = await attested(pool, tenant, fleet, interval_ms=250)
    slow_down(worker, 0.012)

    async def told(kind):
        return kind in [event.kind for event in await tenant.events("one")]

    await eventually(lambda: told(EventKind.OVERLOADED), 40)
    assert worker.status().overloaded
    before = counts(worker)
    await eventually(lambda: all(count >= before[id_] + 3 for id_, count in counts(worker).items()), 60)
    done = [count - before[agent_id] for agent_id, count in counts(worker).items()]
    assert max(done) <= 3 * min(done)
    assert worker.scheduler.waiting + worker.scheduler.in_flight <= len(fleet.agents)
    # The bound on what waits here: the pace has been cut to what can be appraised.
    assert worker.scheduler.pace.rate < 1000
    assert any(attester.promise_ms(4.0) > attester.lease_ms for attester in worker._roster.values())
    del worker.services.desk._appraise
    await eventually(lambda: told(EventKind.RELIEVED), 40)
    assert not worker.status().overloaded
    for agent_id in fleet.agents:
        assert not {event.kind for event in await tenant.events(agent_id)} & HARM
    await fleet.stop()


@pytest.mark.alone
async def test_one_silent_agent_is_missed_although_the_worker_is_slow(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent(f"agent-{number}") for number in range(30)])
    worker = await attested(pool, tenant, fleet, interval_ms=250)
    slow_down(worker, 0.01)
    fleet.silent.add("agent-7")
    await eventually(lambda: worker.attester("agent-7").standing is Standing.UNREACHABLE, 40)
    assert trusted(worker) == 29
    await fleet.stop()


@pytest.mark.alone
async def test_an_update_of_all_agents_is_no_stampede(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent(f"agent-{number:03}") for number in range(120)])
    worker = await attested(pool, tenant, fleet, interval_ms=2_000, lease_ms=20_000)
    began = time.monotonic()
    peak = 0
    challenged = []
    asked = fleet.asked

    async def note(agent, reply):
        nonlocal peak
        challenged.append(time.monotonic() - began)
        peak = max(peak, worker.scheduler.in_flight)
        await asked(agent, reply)

    fleet.asked = note
    for attester in list(worker._roster.values()):
        worker.scheduler.start_over(attester)
    await eventually(lambda: len(challenged) >= 120)
    # One after another, 4 ms apart: in the first tenth of a second no more than a quarter of them.
    assert sum(at < 0.1 for at in challenged) <= 40
    assert peak <= 60
    update = UpdateAgent(
        command_id=uuid.uuid4().hex, agent_id="agent-000", attestation=Attestation(policy="base", interval_ms=2_000)
    )
    assert (await tenant.command("agent-000", update)).ok
    await tenant.becomes("agent-000", Standing.TRUSTED)
    await fleet.stop()


@pytest.mark.alone
async def test_a_fleet_that_reboots_at_once_is_trusted_again(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent(f"agent-{number:03}") for number in range(150)])
    worker = await attested(pool, tenant, fleet, interval_ms=60_000, lease_ms=120_000)
    before = counts(worker)
    for agent in fleet.agents.values():
        agent.reboot()
        agent.run("boot_aggregate", digest_of("boot_aggregate"))
    for agent_id in fleet.agents:
        await fleet.hello(agent_id)
    await eventually(lambda: all(count > before[id_] for id_, count in counts(worker).items()), 40)
    assert trusted(worker) == 150
    assert worker.scheduler.waiting == 0
    for agent_id in list(fleet.agents)[::10]:
        assert not {event.kind for event in await tenant.events(agent_id)} & HARM
    await fleet.stop()


def test_lateness_must_last_to_count_and_to_end():
    watch, now = Overload(), 0

    def judged(late_ms):
        watch.note(late_ms, 1000)
        return watch.judge(now)

    assert judged(900) is None
    now = START_MS - 1
    assert judged(900) is None
    now += 1
    assert judged(260) is EventKind.OVERLOADED
    assert (watch.now, watch.worst_ms, round(watch.stretch, 2)) == (True, 260, 1.26)
    assert judged(150) is None
    assert judged(50) is None
    now += END_MS - 1
    assert judged(50) is None
    now += 1
    assert judged(0) is EventKind.RELIEVED
    assert watch.judge(now + 10 * START_MS) is None


def test_a_short_burst_is_no_overload():
    watch = Overload()
    for second in range(60):
        watch.note(900 if second % 3 == 0 else 0, 1000)
        assert watch.judge(second * 1000) is None


def test_the_pace_follows_what_can_be_appraised():
    pace, now, waiting = Pace(target_ms=100), 1000, 0.0
    worst = 0.0
    for _ in range(6000):
        now += 10
        for _ in range(50):
            if waiting >= 500 or not pace.allow(now):
                break
            waiting += 1
        waiting = max(0.0, waiting - 2)
        if now % 100 == 0:
            pace.heard(now, int(waiting * 5))
        if now > 20_000:
            worst = max(worst, waiting)
    # 200 a second can be appraised: the line stays within what is dealt with in a second.
    assert worst < 200
    assert 50 < pace.rate < 1000
    for _ in range(300):
        now += 100
        pace.heard(now, 0)
    assert pace.rate == FASTEST
