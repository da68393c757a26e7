"""Runs the chaos suite: ``python -m devtools.chaos --seed 1 --minutes 10`` (docs/resilience.md)."""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time

from devtools.chaos.injections import INJECTIONS
from devtools.chaos.suite import Plan, Tally, Tell, run


def main() -> int:
    """Play and print; return 1 when an invariant was broken."""
    options = _arguments().parse_args()
    if options.list:
        for name, inject in INJECTIONS.items():
            sys.stdout.write(f"{name:<18}{inject.__doc__}\n")
        return 0
    began = time.monotonic()

    def tell(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:7.1f} s  {text}\n")
        sys.stdout.flush()

    plan = Plan(
        seed=options.seed if options.seed is not None else time.time_ns() % 1_000_000,
        minutes=options.minutes,
        only=tuple(options.only.split(",")) if options.only else tuple(INJECTIONS),
        agents=options.agents,
        workers=options.workers,
        servers=options.servers,
        hosts=not options.one_host,
        own=not options.shared,
        database=options.database,
    )
    try:
        tally = asyncio.run(_until_signalled(plan, tell))
    except asyncio.CancelledError:
        sys.stdout.write("stopped; everything that was started has ended\n")
        return 128 + signal.SIGTERM
    _show(plan, tally, time.monotonic() - began)
    return 1 if tally.wrong else 0


async def _until_signalled(plan: Plan, tell: Tell) -> Tally:
    playing = asyncio.create_task(run(plan, tell))
    # Hosts and small disks would stay behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    return await playing


def _show(plan: Plan, tally: Tally, took_s: float) -> None:
    write = sys.stdout.write
    write(f"\nseed {plan.seed}, {took_s:.0f} s\n")
    for name in plan.only:
        skipped = tally.skipped.get(name)
        write(f"  {name:<20}{f'skipped: {skipped}' if skipped else tally.injected[name]}\n")
    waits = tally.renewed_s[1:] or [0.0]
    write(f"  healthy agents trusted again: median {statistics.median(waits):.1f} s, worst {max(waits):.1f} s\n")
    write(f"  all checks passed: worst {max(tally.settled_s):.1f} s after the mending\n")
    write(f"  failing transitions: {tally.failures}; delivered more than once, by subscriber: {tally.repeated}\n")
    write(f"  acknowledged messages of agents: {tally.acknowledged:,}; answers: {tally.answers:,}\n")
    write(f"  events: {tally.events}\n")
    write(f"  memory: { ({name: round(mib) for name, mib in tally.memory_mib.items()}) } MiB\n")
    write("\n".join(f"BROKEN {text}" for text in tally.wrong) + "\n" if tally.wrong else "every invariant holds\n")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devtools.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="what happens follows from it; default: another one each time")
    parser.add_argument("--minutes", type=float, default=0.0, help="random failures after each was injected once")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="inject these alone")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--servers", type=int, default=3, choices=(1, 3))
    parser.add_argument("--one-host", action="store_true", help="no network namespaces")
    parser.add_argument("--shared", action="store_true", help="all agents on one connection")
    parser.add_argument("--database", default="postgresql", choices=("postgresql", "mariadb", "sqlite"))
    parser.add_argument("--list", action="store_true", help="say what can be injected")
    return parser


if __name__ == "__main__":
    sys.exit(main())
