"""CPU and memory of both sides under load, in turn: while one is measured, the other stands still."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final, NamedTuple

from bench.side import processes
from bench.side.world import Plan, World, world
from bench.stack import BenchError, until

RATE: Final = 2_000
"""Attestations per second that ours is asked for: near what the machines can sign beside it on one core."""
_WARM_S: Final = 300.0
_ROUNDS: Final = 3
"""Attestations of each agent before a window begins."""
_SAME: Final = 0.9
"""Part of the quotes that must have ended as attestations."""

OURS_SERVERS: Final = ("verifier-1", "nats-server", "notifier")
"""What "everything" of ours is; the registrar, like the incumbent's, does nothing meanwhile."""


class Window(NamedTuple):
    """What one side did in one window."""

    seconds: float
    attestations: int
    cpu: dict[str, float]
    """Process -> CPU seconds; the incumbent's verifier is one."""

    def ms(self, *names: str) -> float:
        """Return the CPU milliseconds of these processes for each attestation."""
        return 1e3 * sum(self.cpu[name] for name in names) / self.attestations

    @property
    def rate(self) -> float:
        """Attestations per second."""
        return self.attestations / self.seconds


class Compared(NamedTuple):
    """What was found with one policy. Times in ms, memory in bytes, for each attestation or agent."""

    plan: Plan
    adding_theirs_s: list[float]
    """Of each agent."""
    adding_ours_s: float
    """One after another."""
    adding_ours_bulk_s: float
    """32 at a time."""
    bytes_theirs: float
    bytes_ours: dict[str, float]
    """Server process -> for each agent."""
    quiet: dict[str, list[Window]]
    """Side -> windows in which machines ran nothing new."""
    idle: dict[str, float]
    """Server process of ours -> part of a core that it used while no agent was attested."""
    news: dict[str, list[Window]]
    """... in which each ran ``entries`` programs before each attestation; empty without a log."""

    def ms(self, side: str, windows: dict[str, list[Window]], *names: str) -> float:
        """Return the median of the windows' CPU milliseconds for each attestation."""
        return statistics.median(window.ms(*names) for window in windows[side])


async def compare(plan: Plan, *, few: int, windows: int, window_s: float, entries: int) -> Compared:
    """Run both sides with ``plan``, each for ``windows`` windows of each kind. Memory per agent is that of agents beyond the
    first ``few``.

    :raises BenchError: when either side did not attest what it was asked to.
    """
    async with world(plan) as both:
        first, rest = range(few), range(few, plan.agents)
        adding = await both.add_theirs(first)
        await _settled_theirs(both)
        theirs_few = processes.proportional_bytes(both.theirs.pids)
        adding += await both.add_theirs(rest)
        await _settled_theirs(both)
        theirs_all = processes.proportional_bytes(both.theirs.pids)
        both.theirs.pause()
        ours_first = await both.add_ours(first, at_once=1)
        await _settled_ours(both, few)
        await asyncio.sleep(window_s / 2)
        ours_few = both.ours.bytes()
        half = range(few, few + len(rest) // 2)
        one_by_one = ours_first + await both.add_ours(half, at_once=1)
        bulk = await both.add_ours(range(half.stop, plan.agents))
        await _settled_ours(both, plan.agents)
        await asyncio.sleep(window_s / 2)
        ours_all = both.ours.bytes()
        await both.ours.pause(both.agents)
        idle = await _idle(both, window_s / 2)
        quiet: dict[str, list[Window]] = {"ours": [], "theirs": []}
        news: dict[str, list[Window]] = {"ours": [], "theirs": []}
        for found, lived in ((quiet, 0), (news, entries))[: 2 if plan.paths and entries else 1]:
            await both.machines.live(lived)
            for _ in range(windows):
                found["theirs"].append(await _theirs(both, window_s))
                found["ours"].append(await _ours(both, window_s))
        return Compared(
            plan=plan,
            adding_theirs_s=adding,
            adding_ours_s=one_by_one * plan.agents / half.stop,
            adding_ours_bulk_s=bulk * plan.agents / (plan.agents - half.stop),
            bytes_theirs=(theirs_all - theirs_few) / len(rest),
            bytes_ours={name: (held - ours_few[name]) / len(rest) for name, held in ours_all.items()},
            idle=idle,
            quiet=quiet,
            news=news,
        )


async def _idle(both: World, seconds: float) -> dict[str, float]:
    before, began = both.ours.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    return {name: (used - before[name]) / (time.monotonic() - began) for name, used in both.ours.cpu().items()}


async def _theirs(both: World, window_s: float) -> Window:
    both.theirs.resume()
    _, least = both.theirs.attestations()
    await until(lambda: both.theirs.attestations()[1] > least, "each is attested", pause_s=0.2, timeout_s=_WARM_S)
    before, spent, began = both.theirs.attestations()[0], processes.cpu_seconds(both.theirs.pids), time.monotonic()
    asked = (await both.machines.asked())["theirs"]
    await asyncio.sleep(window_s)
    after, used, ended = both.theirs.attestations()[0], processes.cpu_seconds(both.theirs.pids), time.monotonic()
    asked = (await both.machines.asked())["theirs"] - asked
    both.theirs.pause()
    if after - before < _SAME * asked - both.plan.agents:
        raise BenchError(f"the incumbent asked for {asked} quotes, but only {after - before} attestations passed")
    return Window(ended - began, after - before, {"verifier": used - spent})


async def _ours(both: World, window_s: float) -> Window:
    await both.ours.resume(both.agents)
    await _settled_ours(both, both.plan.agents)
    before = await both.ours.reading()
    asked = (await both.machines.asked())["ours"]
    await asyncio.sleep(window_s - 1)
    after = await both.ours.reading()
    asked = (await both.machines.asked())["ours"] - asked
    await _settled_ours(both, both.plan.agents)
    await both.ours.pause(both.agents)
    done = after.attestations - before.attestations
    if done < _SAME * asked - both.plan.agents:
        raise BenchError(f"the machines answered {asked} challenges, but there were only {done} attestations")
    spent = {name: used - before.cpu[name] for name, used in after.cpu.items()}
    return Window(after.at - before.at, done, spent)


async def _settled_theirs(both: World) -> None:
    await until(lambda: both.theirs.attestations()[1] >= 2, "the incumbent attests all", pause_s=0.3, timeout_s=_WARM_S)


async def _settled_ours(both: World, agents: int) -> None:
    """Wait until so many agents are trusted, attested a few times more."""
    wanted = set(both.agents[:agents])

    async def trusted() -> bool:
        fleet = await both.ours.client.fleet()
        return wanted <= {view.agent_id for view in fleet.agents if view.standing == "trusted"}

    await until(trusted, f"{agents} agents are trusted", pause_s=0.3, timeout_s=_WARM_S)
    start = (await both.machines.asked())["ours"]

    async def asked() -> bool:
        return (await both.machines.asked())["ours"] >= start + _ROUNDS * agents

    await until(asked, f"{agents} agents are attested", pause_s=0.1, timeout_s=_WARM_S)
