"""``python -m bench.against_keylime``: Attestream and the incumbent in one run on one machine, attesting the same machines.

See ``docs/performance-keylime.md`` for what is compared and how.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from bench import machine
from bench.incumbent import VERSION, UnavailableError
from bench.report import Figure, Report, against
from bench.side.load import OURS_SERVERS, Compared, Window, compare
from bench.side.loss import SIDES, Lost, Sizes, Trials, measure
from bench.side.world import AK, Plan
from bench.stack import BenchError

RESULTS: Final = Path("build/against_keylime.json")
ENTRIES: Final = 2
"""New log entries before each attestation, where there are some."""
WORKER: Final = ("verifier-1",)
INTERVAL_MS: Final = 200
"""The shortest that ours takes; the incumbent goes on without a pause."""


class Case(NamedTuple):
    """A policy size and its goals."""

    name: str
    paths: int
    agents: int
    goal: float
    """How many times as many attestations for each CPU second."""


class Effort(NamedTuple):
    """How much is done."""

    cases: tuple[Case, ...]
    windows: int
    window_s: float
    sizes: Sizes


def effort(arguments: argparse.Namespace) -> Effort:
    """Return what the arguments ask for."""
    cases = (
        Case("nopolicy", 0, arguments.agents, 100),
        Case("10k", 10_000, arguments.agents, 300),
        Case("100k", 100_000, arguments.agents_100k, 1_000),
    )
    wanted = [case for case in cases if not arguments.cases or case.name in arguments.cases.split(",")]
    return Effort(tuple(wanted), arguments.windows, arguments.window, Sizes(outage_s=arguments.outage))


async def report_against_keylime(report: Report, how_much: Effort | None = None) -> None:
    """Measure and report."""
    asked = how_much or effort(_parser().parse_args([]))
    for case in asked.cases:
        report.say(f"{case.name}: {case.agents} agents, load 1 min {os.getloadavg()[0]:.2f} ...")
        plan = Plan(case.paths, case.agents, interval_ms=INTERVAL_MS)
        foreign = machine.Foreign()
        few = max(2, case.agents // 10)
        found = await compare(plan, few=few, windows=asked.windows, window_s=asked.window_s, entries=ENTRIES)
        others = foreign.cores()
        report.keep({f"vs_keylime_foreign_cores_{case.name}": round(others, 2)})
        _report_load(report, case, found)
        report.say(f"{case.name}: everything else on the machine used {others:.2f} cores")
    if asked.sizes.outage_s:
        report.say(f"latency and loss: {asked.sizes.agents} agents, load 1 min {os.getloadavg()[0]:.2f} ...")
        _report_trials(report, asked.sizes, await measure(asked.sizes))


def _report_load(report: Report, case: Case, found: Compared) -> None:
    rows, figures = [], _memory_figures(case, found)
    for what, windows in (("nothing new", found.quiet), (f"{ENTRIES} new entries each", found.news)):
        if not windows["ours"]:
            continue
        suffix = case.name if windows is found.quiet else f"{case.name}_news"
        theirs = found.ms("theirs", windows, "verifier")
        worker, everything = found.ms("ours", windows, *WORKER), found.ms("ours", windows, *OURS_SERVERS)
        rows.append(
            (
                what,
                f"{theirs:.2f} ms ({_rate(windows['theirs']):,.0f}/s)",
                f"{worker:.3f} ms, with bus and notifier {everything:.3f} ms ({_rate(windows['ours']):,.0f}/s)",
                against(theirs / worker, case.goal, more=True, unit="x"),
                against(theirs / everything, case.goal, more=True, unit="x"),
            )
        )
        figures |= {
            f"vs_keylime_cpu_{suffix}": round(theirs / worker, 1),
            f"vs_keylime_cpu_{suffix}_everything": round(theirs / everything, 1),
            f"keylime_cpu_ms_{suffix}": round(theirs, 3),
            f"keylime_attestations_per_core_s_{suffix}": round(1e3 / theirs, 1),
            f"keylime_attestations_s_{suffix}": round(_rate(windows["theirs"]), 1),
            f"attestream_worker_cpu_ms_{suffix}": round(worker, 4),
            f"attestream_cpu_ms_{suffix}": round(everything, 4),
            f"attestream_attestations_per_core_s_{suffix}": round(1e3 / worker),
            f"attestream_attestations_s_{suffix}": round(_rate(windows["ours"])),
        }
        for side, name in (("theirs", "keylime"), ("ours", "attestream")):
            names = ("verifier",) if side == "theirs" else WORKER
            spread = [round(window.ms(*names), 4) for window in windows[side]]
            figures[f"{name}_cpu_ms_windows_{suffix}"] = " ".join(f"{one:g}" for one in spread)
    caption = (
        f"CPU for each attestation, median of {len(found.quiet['ours'])} windows of each side in turn; {case.agents} agents "
        f"with {AK} keys, one worker each. The incumbent {VERSION} attests without a pause; all of its verifier's processes "
        f"count. Attestream is secured and signed, and asks each agent every {INTERVAL_MS} ms."
    )
    head = ["log", "incumbent", "attestream worker", "ratio, worker alone", "ratio, everything"]
    report.table(f"{case.name}: CPU", head, rows, caption, figures)
    _report_memory(report, case, found)


def _rate(windows: list[Window]) -> float:
    return sum(window.attestations for window in windows) / sum(window.seconds for window in windows)


def _memory(found: Compared) -> tuple[float, float]:
    """Return what an agent costs the worker, and all of our servers."""
    floor = 1024.0  # bytes; less than this can not be told from noise, as when a worker has shrunk
    worker = max(floor, found.bytes_ours[WORKER[0]])
    return worker, max(worker, sum(found.bytes_ours[name] for name in OURS_SERVERS))


def _memory_figures(case: Case, found: Compared) -> dict[str, Figure]:
    worker, everything = _memory(found)
    return {
        f"keylime_bytes_per_agent_{case.name}": round(found.bytes_theirs),
        f"attestream_worker_bytes_per_agent_{case.name}": round(worker),
        f"attestream_bytes_per_agent_{case.name}": round(everything),
        f"vs_keylime_bytes_per_agent_{case.name}": round(found.bytes_theirs / worker, 1),
        f"vs_keylime_bytes_per_agent_{case.name}_everything": round(found.bytes_theirs / everything, 1),
        f"keylime_add_s_{case.name}": round(sum(found.adding_theirs_s), 2),
        f"attestream_add_s_{case.name}": round(found.adding_ours_s, 2),
        f"attestream_add_bulk_s_{case.name}": round(found.adding_ours_bulk_s, 2),
        **({"vs_keylime_bytes_per_agent": round(found.bytes_theirs / worker, 1)} if case.name == "10k" else {}),
        f"vs_keylime_agents_{case.name}": case.agents,
        f"attestream_worker_idle_cores_{case.name}": round(found.idle[WORKER[0]], 4),
        f"attestream_idle_cores_{case.name}": round(sum(found.idle[name] for name in OURS_SERVERS), 4),
    }


def _report_memory(report: Report, case: Case, found: Compared) -> None:
    worker, everything = _memory(found)
    kib = 1024
    memory = (
        "memory of an agent",
        f"{found.bytes_theirs / kib:,.0f} KiB",
        f"{worker / kib:,.1f} KiB, with bus and notifier {everything / kib:,.0f} KiB",
        against(found.bytes_theirs / worker, 100, more=True, unit="x"),
        against(found.bytes_theirs / everything, 100, more=True, unit="x"),
    )
    one, bulk, theirs = found.adding_ours_s, found.adding_ours_bulk_s, sum(found.adding_theirs_s)
    adding = (
        f"adding {case.agents} agents",
        f"{theirs:.1f} s",
        f"{one:.2f} s; 32 at a time {bulk:.2f} s",
        f"{theirs / one:.1f}x",
        f"{theirs / bulk:.1f}x at a time",
    )
    caption = (
        "Proportional set size, growth from a tenth of the agents to all of them, each attested. The bus holds a connection "
        "for each agent; the incumbent connects anew for each attestation. Added one after another over one connection."
    )
    head = ["", "incumbent", "attestream", "ratio, worker alone", "ratio, everything"]
    report.table(f"{case.name}: memory, adding agents", head, [memory, adding], caption, {})


def _report_trials(report: Report, sizes: Sizes, found: Trials) -> None:
    names = {"theirs": "incumbent", "ours": "attestream"}
    rows: list[tuple[str, ...]] = []
    figures: dict[str, Figure] = {}
    for side in SIDES:
        latency, lost = found.latency[side], (found.outage[side], found.worker_killed[side], found.all_killed[side])
        rows.append(
            (
                names[side],
                f"{latency.p50:,.0f} / {latency.p99:,.0f} ms ({found.missed[side]} lost)",
                _told(lost[0]),
                f"{_told(lost[1])}; {_again(lost[1])}",
                f"{_told(lost[2])}; {_again(lost[2])}",
            )
        )
        prefix = "keylime" if side == "theirs" else "attestream"
        figures |= {
            f"{prefix}_violation_to_webhook_p50_ms": round(latency.p50),
            f"{prefix}_violation_to_webhook_p99_ms": round(latency.p99),
            f"{prefix}_violations_lost": found.missed[side],
        }
        for name, one in zip(("outage", "worker_killed", "all_killed"), lost, strict=True):
            figures[f"{prefix}_{name}_lost"] = one.violations - one.heard
            if one.agents:
                figures[f"{prefix}_{name}_never_attested_again"] = one.agents - one.attested
                figures[f"{prefix}_{name}_attested_again_s"] = round(one.attested_s, 2)
    caption = (
        f"{sizes.agents} agents, added while the verifiers ran, each attested every 2 s by both sides at the same time, "
        "two workers each. The same violations (PCR 0) on the same machines. Waited 30 s for what did not come, after the "
        "outage 65 s."
    )
    head = [
        "",
        f"violation to webhook p50 / p99, {sizes.latency}",
        f"webhook down {sizes.outage_s:g} s",
        "kill -9 of one of two workers",
        "kill -9 of all, started 5 s later",
    ]
    report.table("latency and loss", head, rows, caption, figures)


def _told(one: Lost) -> str:
    return f"{one.heard} of {one.violations} violations delivered"


def _again(one: Lost) -> str:
    return f"{one.attested} of {one.agents} healthy agents attested again, the last after {one.attested_s:.1f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.against_keylime", description=__doc__)
    parser.add_argument("--agents", type=int, default=200, help="on each side, without policy and with 10,000 paths")
    parser.add_argument("--agents-100k", type=int, default=40, help="on each side with 100,000 paths")
    parser.add_argument("--windows", type=int, default=2, help="of each side and kind, in turn")
    parser.add_argument("--window", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument(
        "--outage", type=float, default=60.0, metavar="SECONDS", help="of the webhooks; 0: no trials of loss"
    )
    parser.add_argument("--cases", default="", metavar="NAME[,NAME]", help="nopolicy, 10k, 100k, or none; default all")
    return parser


async def _run(how_much: Effort) -> None:
    report = Report(RESULTS, machine.describe())
    began = time.monotonic()
    await report_against_keylime(report, how_much)
    report.keep({"machine_load_after": round(os.getloadavg()[0], 2)})
    report.say(f"took {time.monotonic() - began:.0f} s; load average now {os.getloadavg()[0]:.2f}")


def main() -> int:
    """Run what the arguments ask for and return the exit code."""
    try:
        uvloop.run(_run(effort(_parser().parse_args())))
    except (BenchError, UnavailableError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    sys.stdout.write(f"written: {RESULTS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
