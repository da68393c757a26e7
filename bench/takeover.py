"""How long agents are without an owner when a worker is killed, and when one stops in order."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final, NamedTuple

from attestream.bus.partitions import partition
from attestream.clock import unix_ms
from bench.fleet import agent_name
from bench.stack import Simulator, Stack, attestation, stack, until
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
        await parts.add([agent_name(number) for number in range(AGENTS)], attestation(INTERVAL_MS))
        for run in range(runs):
            leaving, staying = f"worker-{run}", f"worker-{run + 1}"
            parts.worker(staying)
            agents = await _shared(parts, leaving, staying)
            times.append(await _end(parts, fleet, leaving, agents, killed=killed))
            sizes.append(len(agents))
    return Takeover(round(statistics.mean(sizes)), statistics.median(times), max(times))


async def _shared(parts: Stack, leaving: str, staying: str) -> set[str]:
    """Wait until both workers have kept their share for two intervals; return the agents of the one that will leave."""
    kept: list[list[int]] = []
    since = time.monotonic()

    async def settled() -> bool:
        nonlocal kept, since
        workers = {status.worker: status for status in await parts.client.workers()}
        shares = [workers[name] for name in (leaving, staying) if name in workers]
        partitions = [sorted(share.partitions) for share in shares]
        whole = sorted(index for owned in partitions for index in owned) == list(range(subjects.PARTITIONS))
        shared = len(partitions) == 2 and all(len(owned) >= subjects.PARTITIONS // 4 for owned in partitions)
        if not (whole and shared and sum(share.agents for share in shares) == AGENTS) or partitions != kept:
            kept, since = partitions, time.monotonic()
        return time.monotonic() - since >= 2 * INTERVAL_MS / 1000

    await until(settled, f"{leaving} and {staying} share the agents", pause_s=0.1)
    return {name for name in map(agent_name, range(AGENTS)) if partition(subjects.token(name)) in kept[0]}


async def _end(parts: Stack, fleet: Simulator, leaving: str, agents: set[str], *, killed: bool) -> float:
    program = parts.programs.pop(leaving)
    began, began_ms = time.monotonic(), unix_ms()
    if killed:
        program.kill()
    else:
        program.end()
    fleet.order(do="watch", agents=sorted(agents), since=began_ms)
    await fleet.hear("taken_over")

    # Each of them has been challenged; the survivor, who alone answers queries now, must have appraised the answers too.
    async def done() -> bool:
        return all(status.attestations for status in await parts.statuses() if status.agent_id in agents)

    await until(done, "the survivor has attested them", pause_s=0.02)
    took = time.monotonic() - began
    await asyncio.to_thread(program.stop)
    return took
