"""One worker with ever more agents: what each of them costs, and whether all are attested in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.clock import unix_ms
from bench.fleet import agent_name
from bench.holdings import Held, Spent, held, lapses, results, spent
from bench.stack import POLICY, BenchError, Simulator, Stack, stack, until
from schemas.commands import Attestation, WorkerStatus
from schemas.roles import Role

WORKER: Final = "worker-1"
FLUSH_MS: Final = "20"
"""Agents are added one after another in each partition, and each addition waits for its row."""
_IDLE_S: Final = 5.0
_PATIENCE_S: Final = 300.0
_QUIET_S: Final = 1.0
_QUIET_CORES: Final = 0.05


class Stage(NamedTuple):
    """What was measured with so many agents. Times are in seconds."""

    agents: int
    taken_in_s: float
    """Until those that were added were trusted."""
    load: Spent
    gap_p50_s: float
    gap_p99_s: float
    held: Held
    lapses: int
    """Results that lapsed and agents that were called unreachable, until the worker was stopped."""
    restart_lapses: int
    """And from then until all had been attested again."""
    loaded_s: float
    """From the start of a new worker until it owned all."""
    ready_s: float
    """Until it had challenged all."""
    again_s: float
    """Until it had attested all."""


class Growth(NamedTuple):
    """One installation, growing."""

    interval_s: float
    idle: Spent
    empty: Held
    """Before anybody was connected."""
    connected: Held
    """When those with connections of their own were connected, and not attested yet."""
    entering_per_s: float
    own: Stage
    """With connections of their own."""
    everybody: Stage
    """With one connection for all, many more of them."""


async def measure(own: int, everybody: int, interval_s: float) -> Growth:
    """Fill one worker with ``own`` agents on connections of their own, then with ``everybody`` on one connection.

    :raises BenchError: something went wrong on the way.
    """
    async with stack(flush_ms=FLUSH_MS) as parts, _looking(parts) as bus:
        agents = await populated(parts, own, everybody - own)
        await started_worker(parts, WORKER)
        await parts.publish_policy()
        idle = await window(parts, agents, _IDLE_S)
        empty = await held(parts, bus)
        agents.order(do="enter")
        entering = await agents.hear("entered", _PATIENCE_S)
        connected = await held(parts, bus)
        first = await _stage(parts, bus, agents, range(own), interval_s)
        agents.order(do="share")
        await agents.hear("shared")
        last = await _stage(parts, bus, agents, range(own, everybody), interval_s)
        await unrefused(agents)
        return Growth(interval_s, idle, empty, connected, entering, first, last)


async def populated(parts: Stack, own: int, shared: int = 0) -> Simulator:
    """Start the agents' process, the registrar, which knows all agents, and the notifier."""
    agents = await parts.simulator("bench.population", own=own, shared=shared)
    parts.registrar()
    parts.notifier()
    return agents


async def unrefused(agents: Simulator) -> None:
    """See that the bus has taken all that the agents have said.

    :raises BenchError: it has refused something.
    """
    agents.order(do="look")
    if refused := await agents.hear("failures"):
        raise BenchError(f"the bus refused: {refused[0]}")


async def started_worker(parts: Stack, name: str) -> None:
    """Start a worker and wait for its first heartbeat."""
    parts.worker(name)
    await parts.reading(name)


async def workers(parts: Stack) -> list[WorkerStatus]:
    """Return the last heartbeats of the workers that run."""
    return [status for status in await parts.client.workers() if status.worker in parts.programs]


async def window(parts: Stack, agents: Simulator, seconds: float) -> Spent:
    """Return what is spent in the next ``seconds``."""
    before = await spent(parts, agents)
    await asyncio.sleep(seconds)
    return (await spent(parts, agents)).since(before)


async def _stage(parts: Stack, bus: Bus, fleet: Simulator, added: range, interval_s: float) -> Stage:
    """Add some agents; measure with all that there are then."""
    agents, before = added.stop, await lapses(parts)
    attestation = Attestation(policy=POLICY, interval_ms=round(1000 * interval_s))
    began = time.monotonic()
    await parts.add([agent_name(number) for number in added], attestation)

    async def judged() -> bool:
        return await results(bus) == agents

    await until(judged, f"{agents} agents have a result", pause_s=0.2, timeout_s=_PATIENCE_S)
    taken_in = time.monotonic() - began
    # The registrar reads of each who was added, a little later.
    await until(partial(_read, parts, fleet), "the registrar has read the record", pause_s=0, timeout_s=_PATIENCE_S)
    await _begin(fleet)
    load = await window(parts, fleet, interval_s)
    fleet.order(do="gaps")
    gaps = await fleet.hear("gaps")
    await parts.settled(agents)
    holding = await held(parts, bus)
    earlier = await lapses(parts)
    loaded, ready, again = await _restarted(parts, fleet, agents)
    return Stage(
        agents=agents,
        taken_in_s=taken_in,
        load=load,
        gap_p50_s=gaps[0],
        gap_p99_s=gaps[1],
        held=holding,
        lapses=earlier - before,
        restart_lapses=await lapses(parts) - earlier,
        loaded_s=loaded,
        ready_s=ready,
        again_s=again,
    )


async def _restarted(parts: Stack, fleet: Simulator, agents: int) -> tuple[float, float, float]:
    """Stop the worker in order, start it again, and return when it owned, had challenged and had attested all."""
    await asyncio.to_thread(parts.programs.pop(WORKER).stop)
    await _begin(fleet)
    began, began_ms = time.monotonic(), unix_ms()
    parts.worker(WORKER)
    loaded = ready = 0.0

    async def asked() -> bool:
        nonlocal loaded, ready
        owned = [status.agents for status in await workers(parts) if status.started_at >= began_ms]
        loaded = loaded or (time.monotonic() - began if owned == [agents] else 0.0)
        fleet.order(do="look")
        count, last = await fleet.hear("seen")
        ready = last - began
        return bool(loaded) and count == agents

    async def attested() -> bool:
        statuses = await parts.statuses()
        return len(statuses) == agents and all(status.last_at >= began_ms for status in statuses)

    await until(asked, f"{agents} agents are asked again", pause_s=0.05, timeout_s=_PATIENCE_S)
    await until(attested, f"{agents} agents are attested again", pause_s=0.2, timeout_s=_PATIENCE_S)
    return loaded, ready, time.monotonic() - began


async def _begin(fleet: Simulator) -> None:
    fleet.order(do="begin")
    await fleet.hear("begun")


async def _read(parts: Stack, fleet: Simulator) -> bool:
    return (await window(parts, fleet, _QUIET_S)).cores("registrar") < _QUIET_CORES


@asynccontextmanager
async def _looking(parts: Stack) -> AsyncIterator[Bus]:
    """Connect as somebody who may look at streams."""
    bus = await connect(BusSettings(urls=[parts.server.url], credentials=parts.place.credentials(Role.PROVISIONER)))
    try:
        yield bus
    finally:
        await bus.close()
