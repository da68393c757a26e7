"""What one more agent costs a worker in memory."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from bench.fleet import agent_name
from bench.growth import FLUSH_MS
from bench.machine import unique_bytes
from bench.stack import Stack, attestation, stack

FIRST: Final = 1_000
LAST: Final = 6_000
INTERVAL_MS: Final = 10_000
SETTLING_S: Final = 11.0
"""More than an interval: every agent has been attested again meanwhile."""


class Memory(NamedTuple):
    """Unique set size of a worker in bytes."""

    first: int
    last: int

    @property
    def per_agent(self) -> float:
        """Bytes that each agent beyond the first thousand added."""
        return (self.last - self.first) / (LAST - FIRST)


async def measure(ak: str = "rsa2048") -> Memory:
    """Fill a worker with agents and compare."""
    async with stack(flush_ms=FLUSH_MS) as parts:
        worker = parts.worker("worker")
        await parts.fleet(LAST, ak)
        await parts.reading("worker")
        await parts.publish_policy()
        names = [agent_name(number) for number in range(LAST)]
        await parts.add(names[:FIRST], attestation(INTERVAL_MS))
        first = await _settled(parts, worker.pid, FIRST)
        await parts.add(names[FIRST:], attestation(INTERVAL_MS))
        return Memory(first, await _settled(parts, worker.pid, LAST))


async def _settled(parts: Stack, pid: int, agents: int) -> int:
    await parts.settled(agents, attested=2)
    await asyncio.sleep(SETTLING_S)
    return unique_bytes(pid)
