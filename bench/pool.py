"""One, two and four workers with the same agents: what an attestation costs, and how evenly the work is shared."""

from __future__ import annotations

import asyncio
import statistics
from typing import Final, NamedTuple

from attestream.client import new_command_id
from bench.fleet import agent_name
from bench.growth import populated, started_worker, unrefused, window, workers
from bench.holdings import Spent
from bench.stack import PATIENCE_S, Simulator, Stack, attestation, stack, until
from schemas import subjects
from schemas.commands import UpdateAgent

WORKERS: Final = (1, 2, 4)
STEADY_MS: Final = 2_000
"""Interval at which all processes have time to spare."""
FULL_MS: Final = 200
"""And one at which they have none: the shortest that an agent may have."""
IDLE_S: Final = 5.0
WINDOW_S: Final = 10.0
BALANCED_S: Final = 5.0
"""After which the work must be shared evenly."""
_AT_ONCE: Final = 32


class Share(NamedTuple):
    """What so many workers did."""

    workers: int
    load: Spent
    agents: list[int]
    """Of each worker."""
    partitions: list[int]

    @property
    def spread(self) -> float:
        """How far the worker that is farthest from the mean is from it, as a part of the mean."""
        mean = statistics.mean(self.agents)
        return max(abs(one - mean) for one in self.agents) / mean if mean else 0.0


class Pool(NamedTuple):
    """What all of them did; the first with agents that leave everybody time, the others with more than can be done."""

    idle: dict[int, Spent]
    """Before there were agents, by the number of workers."""
    steady: list[Share]
    full: list[Share]


async def measure(agents: int) -> Pool:
    """Measure with ``agents`` agents on connections of their own.

    :raises BenchError: something went wrong on the way.
    """
    async with stack() as parts:
        fleet = await populated(parts, agents)
        idle = {}
        for count in (WORKERS[-1], 1):
            await _sized(parts, count, 0)
            idle[count] = (await _share(parts, fleet, count, IDLE_S)).load
        await parts.publish_policy()
        fleet.order(do="enter")
        await fleet.hear("entered")
        names = [agent_name(number) for number in range(agents)]
        await parts.add(names, attestation(STEADY_MS))
        await parts.settled(agents)
        steady = [await _share(parts, fleet, await _sized(parts, count, agents)) for count in WORKERS]
        await _hurry(parts, names)
        full = [await _share(parts, fleet, await _sized(parts, count, agents)) for count in reversed(WORKERS)]
        await unrefused(fleet)
        return Pool(idle, steady, full[::-1])


async def _sized(parts: Stack, count: int, agents: int) -> int:
    """Have ``count`` workers run and own everything between them; return their number."""
    names = [f"worker-{number}" for number in range(1, WORKERS[-1] + 1)]
    for name in names[count:]:
        if name in parts.programs:
            await asyncio.to_thread(parts.programs.pop(name).stop)
    for name in names[:count]:
        if name not in parts.programs:
            await started_worker(parts, name)

    async def shared() -> bool:
        found = await workers(parts)
        owned = [index for one in found for index in one.partitions]
        whole = sorted(owned) == list(range(subjects.PARTITIONS)) and sum(one.agents for one in found) == agents
        return whole and len(found) == count and all(one.partitions for one in found)

    await until(shared, f"{count} workers own everything", pause_s=0.1)
    await asyncio.sleep(BALANCED_S)
    return count


async def _share(parts: Stack, fleet: Simulator, count: int, seconds: float = WINDOW_S) -> Share:
    load = await window(parts, fleet, seconds)
    found = await workers(parts)
    return Share(count, load, [one.agents for one in found], [len(one.partitions) for one in found])


async def _hurry(parts: Stack, names: list[str]) -> None:
    """Let all agents be attested more often than can be done."""
    left = iter(names)

    async def one_after_another() -> None:
        for name in left:
            update = UpdateAgent(command_id=new_command_id(), agent_id=name, attestation=attestation(FULL_MS))
            await parts.client.command(update, timeout_s=PATIENCE_S)

    await asyncio.gather(*(one_after_another() for _ in range(_AT_ONCE)))
