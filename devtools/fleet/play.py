"""Plays a scenario against an installation of its own and compares every agent's outcome with what it did."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attestream.client import Client
from devtools.fleet.audit import Record, deviations, settled
from devtools.fleet.director import Director
from devtools.fleet.fleet import Fleet
from devtools.fleet.scenario import Scenario
from devtools.quiet import quiet
from devtools.site import Site

Tell = Callable[[str], None]

_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.2


class Outcome(NamedTuple):
    """What came of a scenario."""

    counts: dict[str, int]
    wrong: list[str]
    """Where the record and the truth differ; empty: nowhere."""


async def play(scenario: Scenario, *, agents: int = 0, seed: int = 1, tell: Tell) -> Outcome:
    """Play ``scenario`` with ``agents`` machines (0: as many as it says).

    :raises AttestreamError: the installation can not be set up.
    """
    # Machines that fail are cut off, and each of their connections says so.
    with quiet("attestream.bus", "asyncio"):
        return await _play(scenario, agents or scenario.agents, seed, tell)


async def _play(scenario: Scenario, count: int, seed: int, tell: Tell) -> Outcome:
    async with _installed(scenario) as site, site.client() as client:
        fleet = Fleet(site, scenario, agents=count, seed=seed)
        began = time.monotonic()
        try:
            await fleet.start()
            tell(f"{count} agents have enrolled after {time.monotonic() - began:.1f} s")
            return await _lived(fleet, client, tell)
        finally:
            await fleet.stop()


async def _lived(fleet: Fleet, client: Client, tell: Tell) -> Outcome:
    record, director = Record(client.bus), Director(fleet, client, tell)
    began = time.monotonic()
    await director.admit()
    wrong = await settled(fleet, record, _PATIENCE_S + fleet.scenario.lease_ms / 1000)
    if wrong:
        return Outcome({}, wrong)
    tell(f"all are trusted after {time.monotonic() - began:.1f} s")
    await director.play()
    wrong = await settled(fleet, record, _PATIENCE_S + 3 * fleet.scenario.lease_ms / 1000)
    wrong += await _compared(fleet, record)
    wrong += fleet.failures
    wrong += [f"message {sequence} of {stream} can not be believed" for stream, sequence in sorted(record.rejected)]
    events = await record.events()
    counts = Counter(f"events.{event.kind}" for event in events)
    counts |= {
        "agents": len(fleet.agents),
        "answers": fleet.answered,
        "acknowledged": fleet.acknowledged,
        "revocations": len(await record.revocations()),
        "cut_off": fleet.network.cut_off,
    }
    return Outcome(dict(sorted(counts.items())), wrong)


async def _compared(fleet: Fleet, record: Record) -> list[str]:
    """Compare until the last revocations are there."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        wrong = deviations(fleet, await record.events(), await record.revocations())
        if not wrong or time.monotonic() > deadline:
            return wrong
        await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _installed(scenario: Scenario) -> AsyncIterator[Site]:
    sections: dict[str, dict[str, Any]] = {
        "verifier": {
            "challenge_timeout_ms": scenario.timeout_ms,
            "lease_floor_s": min(30.0, scenario.lease_ms / 1000),
            "challenges_in_flight": 2000,
        },
        "limits": {"enrolments_per_s": 100_000.0},
    }
    with tempfile.TemporaryDirectory(prefix="attestream-fleet-") as name:
        site = Site(Path(name), sections=sections)
        try:
            await site.start_bus()
            await site.service("registrar", "registrar")
            for number in range(1, scenario.workers + 1):
                await site.service("verifier", f"verifier-{number}", worker_id=f"verifier-{number}")
            await site.service("notifier", "notifier")
            yield site
        finally:
            site.close()
