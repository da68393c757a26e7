"""What is made of the numbers that an installation of some size has shown; and the page that follows from them."""

import json

import pytest

from bench import scaling
from bench.growth import Growth, Stage
from bench.holdings import Held, Spent, kind
from bench.pool import Pool, Share
from bench.population import Punctuality
from bench.report import Report
from devtools.docs import sizing

MIB = 2**20


def spent(seconds, attestations, **cores):
    cpu = {name: seconds * cores.get(name, 0.0) for name in scaling.PROCESSES}
    return Spent(seconds, attestations, cpu)


def held(*, worker, server, events=0, results=0):
    return Held(
        memory={"worker": worker * MIB, "server": server * MIB, "registrar": 60 * MIB, "notifier": 30 * MIB},
        databases={"verifier": 10 * MIB, "registrar": 10 * MIB},
        streams={"EVENTS": (events, events * 512), "RESULTS": (results, results * 600)},
        disk=MIB,
    )


def stage(agents, load, holding):
    return Stage(agents, 10.0, load, 9.5, 10.0, holding, 0, 0, 1.0, 2.0, 3.0)


@pytest.fixture
def results(tmp_path):
    """A worker that needs 0.02 cores for itself and 200 us for an attestation, 100 us where few results are renewed."""
    idle = spent(10.0, 0, worker=0.02, server=0.01)
    often = spent(10.0, 10_000, worker=0.12, server=0.06)
    seldom = spent(100.0, 10_000, worker=0.04, server=0.02)
    pool = Pool(
        idle={1: idle, 4: idle},
        steady=[Share(count, often, [1_000] * count, [64 // count] * count) for count in (1, 2, 4)],
        full=[Share(count, often, [1_000] * count, [64 // count] * count) for count in (1, 2, 4)],
    )
    empty = held(worker=80, server=20)
    growth = Growth(
        interval_s=60.0,
        idle=idle,
        empty=empty,
        connected=held(worker=80, server=500),
        entering_per_s=1_000.0,
        own=stage(10_000, seldom, held(worker=100, server=1_020, events=20_000, results=10_000)),
        everybody=stage(50_000, seldom, held(worker=180, server=400, events=100_000, results=50_000)),
    )
    report = Report(tmp_path / "scaling.json", {"date": "2026-01-01", "machine_versions": "a 1, nats-server: v2"})
    for name in ("machine_cores", "machine_memory_gib", "machine_load_before"):
        report.keep({name: 2, "machine_cpu": "cpu", "machine_system": "Linux", "scaling_foreign_cores": 0.0})
    scaling.show_pool(report, pool, 1_000)
    scaling.show_growth(report, growth)
    (tmp_path / "identities.json").write_text(json.dumps({"identities_renewed_per_s": 500}))
    return tmp_path


def test_what_is_spent_counts_from_an_earlier_reading():
    before = Spent(100.0, 50, {"worker": 1.0})
    load = Spent(110.0, 1_050, {"worker": 1.5, "server": 0.2}).since(before)
    assert (load.rate, load.us("worker"), load.us("server"), load.cores("worker")) == (100, 500, pytest.approx(200), 0.05)
    assert [kind(name) for name in ("worker-3", "registrar", "server")] == ["worker", "registrar", "server"]


def test_an_interval_is_the_time_between_two_challenges_of_one_agent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bench.population.time.monotonic", lambda: now[0])
    seen = Punctuality()
    for at, agent in ((0, "a"), (1, "b"), (10, "a"), (12, "b")):
        now[0] = at
        seen.note(agent)
    assert (seen.asked, seen.gap_s(0.5), seen.gap_s(0.99)) == (4, 10, 11)
    seen.begin()
    now[0] = 30
    seen.note("a")
    assert (seen.gap_s(0.5), seen.first) == (20, {"a": 30})


def test_workers_are_balanced_by_the_one_that_is_farthest_from_the_mean():
    assert Share(4, spent(1.0, 1), [90, 100, 100, 110], [16] * 4).spread == pytest.approx(0.1)
    assert Share(1, spent(1.0, 1), [0], [64]).spread == 0


def test_sizes_follow_from_what_was_measured(results):
    measured = sizing.Measured(results)
    assert measured.attestation_us("worker", often=True) == pytest.approx(100)
    assert measured.attestation_us("worker", often=False) == pytest.approx(200)
    assert measured.agent_bytes("worker") == pytest.approx(100 * MIB / 50_000)
    assert measured.agent_bytes("server") == pytest.approx(1_000 * MIB / 10_000)
    assert measured.stored_bytes("events") == pytest.approx(512, rel=0.01)
    size = sizing.Size(measured, 95_000, 2)
    assert size.rate == pytest.approx(50_000)
    # 5 cores of attestations, of which a worker does 0.58 beside what it needs for itself.
    assert size.workers == 9
    assert size.worker_cores == pytest.approx(5 + 9 * 0.02)


def test_the_page_marks_what_was_not_measured(results):
    page = sizing.document(results)
    assert "small run" not in page
    rows = [line for line in page.splitlines() if line.startswith("| 10,000 | ")]
    assert "*" not in rows[2]
    assert all("*" in line for line in page.splitlines() if line.startswith("| 100,000 | "))


def test_the_page_says_when_the_run_was_small(results):
    figures = json.loads((results / "scaling.json").read_text())
    (results / "scaling.json").write_text(json.dumps(figures | {"scaling_own_agents": 200}))
    assert "**This was a small run" in sizing.document(results)
