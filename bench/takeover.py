"""How long agents are without an owner when a worker is killed, and when one stops in order."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final, NamedTuple

from attestream.bus.partitions import partition
from bench.fleet import agent_name
from bench.stack import Fleet, Stack, stack, until
from schemas import subjects

AGENTS: Final = 1_000
INTERVAL_MS: Final = 1_000
"""With P-256, so that the simulator keeps up beside two workers."""
KILLS: Final = 6
STOPS: Final = 3


class Takeover(NamedTuple):
    """Seconds from the end of a worker until the last of its agents was attested by the other one."""

    agents: int
    """Those of the worker that ended, on average."""
    median: float
    worst: float


async def measure(*, killed: bool, runs: int) -> Takeover:
    """End one of two workers ``runs`` times, by SIGKILL or in order, under load."""
    times: list[float] = []
    sizes: list[int] = []
    async with stack() as parts:
        parts.worker("worker-0")
        fleet = await parts.fleet(AGENTS, "p256")
        await parts.reading("worker-0")
        await parts.publish_policy()
        await parts.add(0, AGENTS, INTERVAL_MS)
        for run in range(runs):
            leaving, staying = f"worker-{run}", f"worker-{run + 1}"
            parts.worker(staying)
            agents = await _shared(parts, leaving, staying)
            times.append(await _end(parts, fleet, leaving, agents, killed=killed))
            sizes.append(len(agents))
    return Takeover(round(statistics.mean(sizes)), statistics.median(times), max(times))


async def _shared(parts: Stack, leaving: str, staying: str) -> set[str]:
    """Wait until both workers have had their share for two intervals; return the agents of the one that will leave."""

    def done() -> bool:
        shares = [reading.status for name in (leaving, staying) if (reading := parts.readings.get(name)) is not None]
        owned = [index for share in shares for index in share.partitions]
        return (
            [len(share.partitions) for share in shares] == [subjects.PARTITIONS // 2] * 2
            and len(set(owned)) == subjects.PARTITIONS
            and sum(share.agents for share in shares) == AGENTS
        )

    await until(done, f"{leaving} and {staying} share the agents", pause_s=0.1)
    await asyncio.sleep(2 * INTERVAL_MS / 1000)
    share = set(parts.readings[leaving].status.partitions)
    return {name for name in map(agent_name, range(AGENTS)) if partition(subjects.token(name)) in share}


async def _end(parts: Stack, fleet: Fleet, leaving: str, agents: set[str], *, killed: bool) -> float:
    program = parts.programs.pop(leaving)

    async def watched() -> bool:
        fleet.order(do="watch", agent=min(agents))
        return bool(await fleet.hear("watched") == len(agents))

    await until(watched, f"{leaving} challenges its {len(agents)} agents and no others", pause_s=0.2)
    began = time.monotonic()
    if killed:
        program.kill()
    else:
        program.end()
    await fleet.hear("taken_over")

    # Each of them has been challenged; the survivor, who alone answers queries now, must have appraised the answers too.
    async def done() -> bool:
        return all(status.attestations for status in await parts.statuses() if status.agent_id in agents)

    await until(done, "the survivor has attested them", pause_s=0.02)
    took = time.monotonic() - began
    await asyncio.to_thread(program.stop)
    return took
