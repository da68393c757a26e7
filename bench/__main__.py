"""``python -m bench [--only NAME[,NAME]]``: measures, prints tables, and writes ``build/bench.json``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop

from attestream.errors import AttestreamError
from bench import latency, machine, memory, takeover, throughput
from bench.against_keylime import report_against_keylime
from bench.core import report_core
from bench.identities import report_identities
from bench.incumbent import UnavailableError
from bench.long_log import report_long_log
from bench.ready import report_ready
from bench.report import Figure, Report, against
from bench.scaling import report_scaling
from bench.stack import BenchError
from bench.storm import report_storm

RESULTS: Final = Path("build/bench.json")

BUSY_CORES: Final = 0.25
"""Cores that others may use meanwhile without a word."""

_HOW_RATES: Final = (
    "One worker process, SQLite, a real nats-server, {agents:,} software agents in one process that sign real quotes. "
    "Per core: attestations for each CPU second of the worker, all its threads, from /proc/<pid>/stat over {window:g} s. "
    "Wall: attestations per second as they happened, with everything on this one machine; the busiest process bounds it. "
    "Signing costs the simulator some 255 us with RSA-2048 and 31 us with P-256."
)


def _rates(report: Report, name: str, loads: dict[str, throughput.Load], goal: float, what: str) -> None:
    rows = [
        (
            ak,
            against(load.per_core_s, goal, more=True, unit="/s"),
            f"{load.cpu_ms_per_1000:.0f} ms",
            f"{load.rate:,.0f}/s",
            ", ".join(f"{process} {load.share(process):.2f}" for process in load.cpu if process != "driver"),
            load.bottleneck,
        )
        for ak, load in loads.items()
    ]
    head = loads["rsa2048"]
    figures: dict[str, Figure] = {
        f"{name}_attestations_per_core_s": round(head.per_core_s),
        f"cpu_ms_per_1000_{name}": round(head.cpu_ms_per_1000, 1),
    }
    for ak, load in loads.items():
        figures |= {
            f"{name}_wall_attestations_s_{ak}": round(load.rate),
            f"{name}_cpu_ms_per_1000_{ak}": round(load.cpu_ms_per_1000, 1),
            f"{name}_bottleneck_{ak}": load.bottleneck,
        }
    how = _HOW_RATES.format(agents=throughput.AGENTS, window=throughput.WINDOW_S)
    columns = ["AK", "per worker core", "CPU / 1,000", "wall", "cores used", "busiest"]
    report.table(f"{name}: {what}", columns, rows, how, figures)


async def _bare(report: Report) -> None:
    loads = {ak: await throughput.measure(ak, news=False) for ak in ("rsa2048", "p256")}
    _rates(report, "bare", loads, 5_000, "a quote over known PCR values, as the direct answer to its challenge")


async def _news(report: Report) -> None:
    loads = {ak: await throughput.measure(ak, news=True) for ak in ("rsa2048", "p256")}
    what = f"{throughput.ENTRIES} new log entries each, over the EVIDENCE stream, policy of 10,000 paths"
    _rates(report, "news", loads, 3_000, what)


async def _latency(report: Report) -> None:
    change = await latency.measure(notice=True)
    schedule = await latency.measure(notice=False)
    rows = []
    figures: dict[str, Figure] = {}
    for name, found, goal in (("change", change, 250.0), ("schedule", schedule, 0.0)):
        p99 = against(found.p99, goal, more=False, unit=" ms") if goal else f"{found.p99:,.0f} ms"
        rows.append((f"on {name}", str(found.samples), f"{found.p50:,.0f} ms", p99, f"{found.worst:,.0f} ms"))
        figures |= {
            f"{name}_to_revocation_p50_ms": round(found.p50, 1),
            f"{name}_to_revocation_p99_ms": round(found.p99, 1),
            f"{name}_to_revocation_max_ms": round(found.worst, 1),
        }
    caption = (
        f"From the extend of PCR 10 by an unknown program to the signed revocation at an outside subscriber, at "
        f"{latency.PER_S:g} violations per second among {latency.AGENTS:,} agents with RSA-2048; worker and notifier are "
        "processes of their own. On change: the agent sees the entry at its next look at the log (every 50 ms, counted) and "
        f"tells; heartbeats every {latency.CHANGE_INTERVAL_MS // 1000} s. On schedule: nobody tells, heartbeats every "
        f"{latency.SCHEDULE_INTERVAL_MS // 1000} s. A hardware TPM's quote takes 30-500 ms more."
    )
    report.table("latency: violation to revocation", ["", "violations", "p50", "p99", "max"], rows, caption, figures)


async def _takeover(report: Report) -> None:
    killed = await takeover.measure(killed=True, runs=takeover.KILLS)
    stopped = await takeover.measure(killed=False, runs=takeover.STOPS)
    rows = [
        (name, str(runs), str(found.agents), f"{found.median:.2f} s", worst)
        for name, runs, found, worst in (
            ("SIGKILL", takeover.KILLS, killed, against(killed.worst, 3.0, more=False, unit=" s")),
            ("SIGTERM", takeover.STOPS, stopped, f"{stopped.worst:.2f} s"),
        )
    ]
    caption = (
        f"One of two workers ends while {takeover.AGENTS:,} agents are attested every {takeover.INTERVAL_MS / 1000:g} s. "
        "From the signal until the last of its agents was attested by the other worker. A partition's lease lives 2 s."
    )
    figures: dict[str, Figure] = {
        "takeover_s": round(killed.median, 2),
        "takeover_max_s": round(killed.worst, 2),
        "handover_s": round(stopped.median, 2),
        "handover_max_s": round(stopped.worst, 2),
    }
    report.table("takeover: a worker ends", ["", "runs", "its agents", "median", "max"], rows, caption, figures)


async def _memory(report: Report) -> None:
    found = await memory.measure()
    per_agent = against(found.per_agent / 1024, 3.0, more=False, unit=" KiB")
    rows = [(f"{found.first / 2**20:.1f} MiB", f"{found.last / 2**20:.1f} MiB", per_agent)]
    caption = (
        "Unique set size of the worker (/proc/<pid>/smaps_rollup), after every agent was attested at least twice. RSA-2048 "
        "attestation and endorsement keys."
    )
    head = [f"{memory.FIRST:,} agents", f"{memory.LAST:,} agents", "each agent more"]
    figures: dict[str, Figure] = {
        "bytes_per_agent": round(found.per_agent),
        "worker_bytes_1000_agents": found.first,
    }
    report.table("memory: what an agent costs a worker", head, rows, caption, figures)


PARTS: Final[dict[str, Callable[[Report], Awaitable[None]]]] = {
    "bare": _bare,
    "news": _news,
    "latency": _latency,
    "takeover": _takeover,
    "memory": _memory,
    "identities": report_identities,
    "storm": report_storm,
    "ready": report_ready,
    "long_log": report_long_log,
    "scaling": report_scaling,
    "core": report_core,
    "against_keylime": report_against_keylime,
}


LONG: Final = ("against_keylime", "scaling")
"""Parts that run only when they are named."""


def chosen(only: list[str]) -> list[str]:
    """Return the names of the parts to run; all but the long ones when none is named.

    :raises ValueError: naming what is no part.
    """
    names = [name for text in only for name in text.split(",") if name]
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"{unknown[0]!r} is not a part; the parts are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names] or [name for name in PARTS if name not in LONG]


async def _run(names: list[str]) -> None:
    report = Report(RESULTS, machine.describe())
    for name in names:
        began, foreign = time.monotonic(), machine.Foreign()
        report.say(f"measuring {name} ...")
        await PARTS[name](report)
        others = foreign.cores()
        report.keep({f"{name}_foreign_cores": round(others, 2)})
        report.say(f"{name} took {time.monotonic() - began:.0f} s; everything else on the machine used {others:.2f} cores")
        if others > BUSY_CORES:
            report.say("That is enough to spoil rates, times and CPU per attestation: measure again on a machine at rest.")


def main() -> int:
    """Run the parts that the arguments name and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME[,NAME]", help=f"parts: {', '.join(PARTS)}")
    try:
        names = chosen(parser.parse_args().only)
    except ValueError as error:
        parser.error(str(error))
    try:
        uvloop.run(_run(names))
    except (AttestreamError, BenchError, UnavailableError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    sys.stdout.write(f"written: {RESULTS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
