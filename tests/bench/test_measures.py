"""What the bench makes of raw numbers. The measurements themselves are their own test: they end in an error when anything
on the way went wrong."""

import json
import os
import subprocess
import sys
import time

import pytest

from bench import machine
from bench.__main__ import LONG, PARTS, chosen
from bench.latency import quantile, summary
from bench.report import Report, against
from bench.stack import Reading
from bench.throughput import between
from schemas.commands import WorkerStatus


def reading(at, attestations, **cpu):
    status = WorkerStatus(worker="w", started_at=0, partitions=[], agents=0, attestations=attestations, in_flight=0)
    return Reading(at, status, cpu)


def test_a_load_is_what_happened_between_two_readings():
    load = between(reading(10.0, 1_000, w=1.0, fleet=5.0), reading(20.0, 31_000, w=4.0, fleet=14.0), adding_rate=0.0)
    assert load.rate == 3_000
    assert load.per_core_s == 10_000
    assert load.cpu_ms_per_1000 == pytest.approx(100)
    assert load.share("fleet") == pytest.approx(0.9)
    assert load.bottleneck == "fleet"


def test_quantiles_are_values_that_occurred():
    values = [float(number) for number in range(1, 301)]
    assert quantile(values, 0.5) == 150
    assert quantile(values, 0.99) == 297
    assert quantile([7.0], 0.99) == 7
    assert summary([3.0, 1.0, 2.0]) == (3, 2.0, 3.0, 3.0)


def test_cpu_time_is_read_past_any_name():
    stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 10"
    assert machine.parse_cpu_ticks(stat) == 300


def test_cpu_time_of_this_process_grows():
    before = machine.cpu_seconds(os.getpid())
    while machine.cpu_seconds(os.getpid()) == before:
        sum(range(10_000))


def test_unique_memory_leaves_shared_pages_out():
    rollup = "Rss: 900 kB\nShared_Clean: 500 kB\nPrivate_Clean: 100 kB\nPrivate_Dirty: 300 kB\nPrivate_Hugetlb: 0 kB\n"
    assert machine.parse_unique_bytes(rollup) == 400 * 1024
    assert machine.unique_bytes(os.getpid()) > 1 << 20


@pytest.mark.alone
def test_a_child_is_foreign_until_it_has_ended():
    foreign, began = machine.Foreign(), time.monotonic()
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    running = foreign.cores() * (time.monotonic() - began)
    child.communicate(b"\n")
    ended = foreign.cores() * (time.monotonic() - began)
    assert running > 0.4
    assert ended < running - 0.2


def test_parts_are_chosen_by_name_and_run_in_their_order():
    assert chosen([]) == [name for name in PARTS if name not in LONG]
    assert chosen(["latency,bare"]) == ["bare", "latency"]
    with pytest.raises(ValueError, match="'latencies' is not a part"):
        chosen(["latencies"])


def test_a_missed_goal_is_said():
    assert "MISSES" in against(4_999, 5_000, more=True)
    assert "MISSES" not in against(5_000, 5_000, more=True)
    assert "MISSES" in against(251, 250, more=False)


def test_the_report_is_one_flat_object(tmp_path):
    report = Report(tmp_path / "build" / "bench.json", {"machine_cores": 2})
    report.table("one", ["a"], [("1",)], "how", {"x": 1.5})
    report.table("two", ["a"], [("2",)], "how", {"y": "z"})
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == {"machine_cores": 2, "x": 1.5, "y": "z"}
