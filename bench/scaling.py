"""How an installation grows: more workers for the same agents, and more agents for one worker.

``python -m bench.scaling --pool 200 --own 200 --all 1000 --interval 5`` is a small run of what ``python -m bench --only
scaling`` measures in full.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import uvloop

from bench import growth, machine, pool
from bench.growth import Growth, Stage
from bench.holdings import Held, Spent
from bench.pool import Pool, Share
from bench.report import Figure, Report, against
from devtools.docs.sizing import GROWTH, PROCESSES

POOL_AGENTS: Final = 2_000
OWN_AGENTS: Final = 10_000
ALL_AGENTS: Final = 50_000
INTERVAL_S: Final = 60.0
MOST_SPREAD: Final = 0.1

_CREDENTIALS: Final = (
    "A secure installation: everybody has an identity on the bus, everything is signed and checked; SQLite; no TLS on the "
    "loopback interface. The agents, all in one process, sign real quotes with P-256 keys. CPU from /proc/<pid>/stat; all "
    "workers count together."
)


async def report_scaling(report: Report) -> None:
    """Measure in full size, and report."""
    await report_sizes(report, POOL_AGENTS, OWN_AGENTS, ALL_AGENTS, INTERVAL_S)


async def report_sizes(report: Report, pool_agents: int, own: int, everybody: int, interval_s: float) -> None:
    """Measure with so many agents, and report."""
    show_pool(report, await pool.measure(pool_agents), pool_agents)
    show_growth(report, await growth.measure(own, everybody, interval_s))


def show_pool(report: Report, found: Pool, agents: int) -> None:
    """Report what workers did with ``agents`` agents."""
    rows = [_share_row(label, share) for label, shares in (("2 s", found.steady), ("0.2 s", found.full)) for share in shares]
    figures: dict[str, Figure] = {"scaling_pool_agents": agents, "scaling_pool_interval_ms": pool.STEADY_MS}
    for count, load in found.idle.items():
        figures |= {f"scaling_{count}w_idle_{name}_cores": round(load.cores(name), 4) for name in PROCESSES}
    for label, shares in (("", found.steady), ("full_", found.full)):
        for share in shares:
            prefix = f"scaling_{share.workers}w_{label}"
            figures |= _load(prefix, share.load) | {
                f"{prefix}agents_min": min(share.agents),
                f"{prefix}agents_max": max(share.agents),
                f"{prefix}partitions_min": min(share.partitions),
                f"{prefix}partitions_max": max(share.partitions),
            }
    caption = (
        f"{_CREDENTIALS} {agents:,} agents, each with a connection of its own, every 2 s, and as often as everything on "
        f"this machine together can do it. CPU seconds for 1,000 attestations, over {pool.WINDOW_S:g} s, "
        f"{pool.BALANCED_S:g} s after a worker has come or gone. Balance: agents of a worker, the farthest from the mean."
    )
    head = ["interval", "workers", "rate", *(f"{shown}, s" for shown in PROCESSES.values()), "balance", "partitions"]
    report.table("scaling: workers", head, rows, caption, figures)


def _share_row(label: str, share: Share) -> tuple[str, ...]:
    return (
        label,
        str(share.workers),
        f"{share.load.rate:,.0f}/s",
        *(f"{share.load.us(name) / 1000:.3f}" for name in PROCESSES),
        against(share.spread, MOST_SPREAD, more=False),
        f"{min(share.partitions)}-{max(share.partitions)}",
    )


def _load(prefix: str, load: Spent) -> dict[str, Figure]:
    figures: dict[str, Figure] = {f"{prefix}{name}_cores": round(load.cores(name), 4) for name in PROCESSES}
    return {f"{prefix}rate": round(load.rate, 1)} | figures


def show_growth(report: Report, found: Growth) -> None:
    """Report what one worker did."""
    figures: dict[str, Figure] = {
        "scaling_interval_s": found.interval_s,
        "scaling_flush_ms": int(growth.FLUSH_MS),
        "scaling_entering_per_s": round(found.entering_per_s),
    }
    figures |= _held("scaling_empty_", found.empty) | _held("scaling_connected_", found.connected)
    figures |= {f"scaling_idle_{name}_cores": round(found.idle.cores(name), 4) for name in PROCESSES}
    for prefix, stage in (("scaling_own_", found.own), ("scaling_all_", found.everybody)):
        figures |= _stage(prefix, stage)
    rows = [("connections", "own", "one for all"), *(_row(what, unit, figures, key) for what, key, unit in GROWTH)]
    caption = (
        f"{_CREDENTIALS} Every {found.interval_s:g} s. Memory: unique set size. Restart: the worker is stopped in order and "
        "started; until it owned, had challenged, and had attested all. What of the server's CPU and memory belongs to "
        "connections is only in the figures of agents with connections of their own."
    )
    head = ["", f"{found.own.agents:,} agents", f"{found.everybody.agents:,} agents"]
    report.table("scaling: one worker", head, rows, caption, figures)


def _row(what: str, unit: str, figures: dict[str, Figure], key: str) -> tuple[str, ...]:
    values = [figures[f"scaling_{stage}_{key}"] for stage in ("own", "all")]
    if key.endswith("lapses"):
        return (what, *(against(float(value), 0, more=False) for value in values))
    return (what, *(f"{value:,}{unit}" for value in values))


def _stage(prefix: str, stage: Stage) -> dict[str, Figure]:
    return (
        {
            f"{prefix}agents": stage.agents,
            f"{prefix}taken_in_s": round(stage.taken_in_s, 1),
            f"{prefix}gap_p50_s": round(stage.gap_p50_s, 2),
            f"{prefix}gap_p99_s": round(stage.gap_p99_s, 2),
            f"{prefix}loaded_s": round(stage.loaded_s, 2),
            f"{prefix}ready_s": round(stage.ready_s, 2),
            f"{prefix}again_s": round(stage.again_s, 2),
            f"{prefix}lapses": stage.lapses,
            f"{prefix}restart_lapses": stage.restart_lapses,
        }
        | _load(prefix, stage.load)
        | _held(prefix, stage.held)
    )


def _held(prefix: str, held: Held) -> dict[str, Figure]:
    figures: dict[str, Figure] = {f"{prefix}{name}_mib": _mib(held.memory[name]) for name in PROCESSES}
    figures |= {f"{prefix}{name}_db_mib": _mib(size) for name, size in held.databases.items()}
    for stream in ("EVENTS", "RESULTS"):
        messages, size = held.streams[stream]
        figures |= {f"{prefix}{stream.lower()}": messages, f"{prefix}{stream.lower()}_mib": _mib(size)}
    return figures | {f"{prefix}disk_mib": _mib(held.disk)}


def _mib(size: int) -> float:
    return round(size / 2**20, 2)


def main() -> None:
    """Measure with the sizes that the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--pool", type=int, default=POOL_AGENTS, help="agents of one, two and four workers")
    parser.add_argument("--own", type=int, default=OWN_AGENTS, help="agents of one worker, with connections of their own")
    parser.add_argument("--all", type=int, default=ALL_AGENTS, help="agents of one worker, over one connection")
    parser.add_argument(
        "--interval", type=float, default=INTERVAL_S, help="seconds between attestations of one worker's agents"
    )
    parser.add_argument("--results", type=Path, default=Path("build/scaling.json"))
    arguments = parser.parse_args()
    report, foreign = Report(arguments.results, machine.describe()), machine.Foreign()
    uvloop.run(report_sizes(report, arguments.pool, arguments.own, arguments.all, arguments.interval))
    report.keep({"scaling_foreign_cores": round(foreign.cores(), 2)})


if __name__ == "__main__":
    main()
