"""The same violations on the same machines, attested every 2 s by both sides at once: what the webhooks hear, and when.

Four trials in one run: violations one by one; violations while the receivers are down; one of two workers killed; all of the
verifier killed and started again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.latency import Latency, summary
from bench.side.world import Plan, World, world

INTERVAL_S: Final = 2.0
SIDES: Final = ("theirs", "ours")
_GAP_S: Final = 0.3
"""Between two violations, on average."""
_AFTER_S: Final = 30.0
"""How long is waited for what did not come at once."""
_RETRY_S: Final = 65.0
"""How long is waited after an outage: the longest pause between two deliveries of ours, and a little."""
_DOWN_S: Final = 5.0
"""How long a killed verifier stays down."""


class Lost(NamedTuple):
    """What became of one trial on one side."""

    violations: int
    heard: int
    """Violations that the webhook heard of."""
    agents: int = 0
    """Healthy ones, that ought to be attested again."""
    attested: int = 0
    """Those that were."""
    attested_s: float = 0.0
    """From the start of the verifier, or of the trial, until the last of them was."""


class Trials(NamedTuple):
    """Side -> what was found."""

    latency: dict[str, Latency]
    missed: dict[str, int]
    """Violations of the first trial that the webhook never heard of."""
    outage: dict[str, Lost]
    worker_killed: dict[str, Lost]
    all_killed: dict[str, Lost]


class Sizes(NamedTuple):
    """How much is done."""

    latency: int = 60
    outage: int = 10
    outage_s: float = 60.0
    killed: int = 10
    """Violations in each of the trials with a kill."""
    healthy: int = 30

    @property
    def agents(self) -> int:
        """How many it takes."""
        return self.latency + self.outage + 2 * self.killed + self.healthy


async def measure(sizes: Sizes) -> Trials:
    """Run all four trials."""
    plan = Plan(0, sizes.agents, workers=2, interval_ms=round(1000 * INTERVAL_S), their_interval_s=INTERVAL_S)
    async with world(plan) as both:
        await both.received["ours"].start()
        await both.received["theirs"].start(both.theirs.receiving())
        everyone = range(plan.agents)
        await both.add_theirs(everyone)
        await both.add_ours(everyone)
        await _all_asked(both, set(both.agents), time.monotonic_ns(), _AFTER_S)
        order = list(everyone)
        random.shuffle(order)
        victims = iter(order)
        latency, missed = await _latency(both, _take(victims, sizes.latency))
        outage = await _outage(both, _take(victims, sizes.outage), sizes.outage_s)
        worker = await _worker_killed(both, _take(victims, sizes.killed))
        everything = await _all_killed(both, _take(victims, sizes.killed))
        return Trials(latency, missed, outage, worker, everything)


def _take(victims: Iterator[int], count: int) -> list[int]:
    return [next(victims) for _ in range(count)]


async def _misbehave(both: World, numbers: list[int], gap_s: float = _GAP_S) -> dict[str, int]:
    """Have agents violate their policy one after another; return when each did (ns)."""
    violated = {}
    for number in numbers:
        name, at = await both.machines.misbehave(number)
        violated[name] = at
        await asyncio.sleep(random.uniform(0.5 * gap_s, 1.5 * gap_s))
    return violated


async def _heard(both: World, violated: dict[str, int], timeout_s: float) -> dict[str, int]:
    """Wait until both webhooks have heard of all, or for so long, and return of how many each has."""
    wanted = list(violated)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(len(both.received[side].about(wanted)) < len(wanted) for side in SIDES):
        await asyncio.sleep(0.1)
    return {side: len(both.received[side].about(wanted)) for side in SIDES}


async def _latency(both: World, victims: list[int]) -> tuple[dict[str, Latency], dict[str, int]]:
    violated = await _misbehave(both, victims)
    heard = await _heard(both, violated, _AFTER_S)
    found = {}
    for side in SIDES:
        arrived = both.received[side].arrived
        found[side] = summary([(arrived[name] - at) / 1e6 for name, at in violated.items() if name in arrived])
    return found, {side: len(violated) - heard[side] for side in SIDES}


async def _outage(both: World, victims: list[int], seconds: float) -> dict[str, Lost]:
    for side in SIDES:
        await both.received[side].stop()
    began = time.monotonic()
    violated = await _misbehave(both, victims)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    await both.received["ours"].start()
    await both.received["theirs"].start(both.theirs.receiving())
    heard = await _heard(both, violated, _RETRY_S)
    return {side: Lost(len(violated), heard[side]) for side in SIDES}


async def _worker_killed(both: World, victims: list[int]) -> dict[str, Lost]:
    both.theirs.kill_worker()
    both.ours.kill([both.ours.workers[0]])
    began = dict.fromkeys(SIDES, time.monotonic_ns())
    violated = await _misbehave(both, victims, gap_s=0.1)
    found = await _outcome(both, violated, began)
    both.ours.start([both.ours.workers[0]])
    await both.ours.alive()
    return found


async def _all_killed(both: World, victims: list[int]) -> dict[str, Lost]:
    await asyncio.to_thread(both.theirs.kill_verifier)
    both.ours.kill(both.ours.workers)
    violated = await _misbehave(both, victims, gap_s=0.1)
    await asyncio.sleep(_DOWN_S)
    began = {"ours": time.monotonic_ns()}
    both.ours.start(both.ours.workers)
    began["theirs"] = time.monotonic_ns()
    await asyncio.to_thread(both.theirs.start_verifier)
    return await _outcome(both, violated, began)


async def _outcome(both: World, violated: dict[str, int], began: dict[str, int]) -> dict[str, Lost]:
    """Wait for word of all violations and for a quote of each healthy agent, from both sides."""
    gone = set(both.received["ours"].arrived) | set(both.received["theirs"].arrived) | violated.keys()
    healthy = set(both.agents) - gone
    heard = await _heard(both, violated, _AFTER_S)
    left_s = max(0.0, max(began.values()) / 1e9 + _AFTER_S - time.monotonic())
    found = {}
    for side in SIDES:
        attested = await _all_asked(both, healthy, began[side], left_s, sides=(side,))
        last = max((at for name, at in attested[side].items() if name in healthy), default=began[side])
        found[side] = Lost(
            len(violated),
            heard[side],
            len(healthy),
            len(healthy & attested[side].keys()),
            (last - began[side]) / 1e9,
        )
    return found


async def _all_asked(
    both: World, healthy: set[str], since: int, timeout_s: float, sides: tuple[str, ...] = SIDES
) -> dict[str, dict[str, int]]:
    """Wait until each healthy agent was asked since then, or for so long, and return who was, and when first."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = {side: await both.machines.since(side, since) for side in sides}
        if all(healthy <= one.keys() for one in found.values()) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)
