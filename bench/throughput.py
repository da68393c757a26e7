"""Attestations per second, and what each costs the worker: bare ones, and ones with news over the stream."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from bench.fleet import agent_name
from bench.stack import BenchError, Reading, Stack, attestation, stack

AGENTS: Final = 2_000
INTERVAL_MS: Final = 1_000
NEWS_INTERVAL_MS: Final = 2_000
"""As many challenges as a simulator can sign that shares two cores with everything else: agents whose answers come too
late would be measured instead."""
WINDOW_S: Final = 15.0
ENTRIES: Final = 10
"""New log entries of each agent before each challenge in the part with news."""


class Load(NamedTuple):
    """What happened between two readings."""

    seconds: float
    attestations: int
    cpu: dict[str, float]
    """Name of the process -> CPU seconds."""
    worker: str
    adding_rate: float

    @property
    def per_core_s(self) -> float:
        """Attestations for each CPU second of the worker."""
        return self.attestations / self.cpu[self.worker]

    @property
    def cpu_ms_per_1000(self) -> float:
        """CPU milliseconds of the worker for a thousand attestations."""
        return 1e6 * self.cpu[self.worker] / self.attestations

    @property
    def rate(self) -> float:
        """Attestations per second of the wall clock."""
        return self.attestations / self.seconds

    def share(self, name: str) -> float:
        """Part of a core that the process ``name`` used."""
        return self.cpu.get(name, 0.0) / self.seconds

    @property
    def bottleneck(self) -> str:
        """The process that used most of its core."""
        return max(self.cpu, key=self.share)


def between(before: Reading, after: Reading, adding_rate: float) -> Load:
    """Return the load between two readings of one worker."""
    return Load(
        seconds=after.at - before.at,
        attestations=after.status.attestations - before.status.attestations,
        cpu={name: after.cpu[name] - spent for name, spent in before.cpu.items()},
        worker=after.status.worker,
        adding_rate=adding_rate,
    )


async def measure(ak: str, *, news: bool, agents: int = AGENTS, window_s: float = WINDOW_S) -> Load:
    """Drive one worker with a fleet whose attestation keys are of kind ``ak``.

    :raises BenchError: when an agent lost its standing on the way.
    """
    async with stack() as parts:
        parts.worker("worker")
        fleet = await parts.fleet(agents, ak)
        await parts.reading("worker")
        await parts.publish_policy()
        rate = await parts.add(
            [agent_name(number) for number in range(agents)], attestation(NEWS_INTERVAL_MS if news else INTERVAL_MS)
        )
        await parts.settled(agents)
        if news:
            fleet.order(do="news", entries=ENTRIES)
            await fleet.hear("news")
        await parts.settled(agents, attested=10)
        load = await _window(parts, window_s, rate)
        fleet.order(do="count")
        refused = await fleet.hear("refused")
        if refused:
            raise BenchError(f"the bus has refused what agents said: {refused[0]}")
        await parts.settled(agents)
        return load


async def _window(parts: Stack, window_s: float, adding_rate: float) -> Load:
    before = await parts.reading("worker")
    await asyncio.sleep(window_s)
    return between(before, await parts.reading("worker"), adding_rate)
