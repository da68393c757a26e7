"""What can be made to fail. Each injection fails something, waits, and mends it; the caller's random numbers decide."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from attestream.bus.connection import Bus
from attestream.clock import unix_ms
from attestream.errors import AttestreamError
from devtools.chaos.hosts import Hosts
from devtools.chaos.skewed import Clock
from devtools.chaos.subscribers import Subscribers
from devtools.cluster import Service
from devtools.database_server import DatabaseServer
from devtools.fleet.fleet import Fleet
from devtools.fleet.machine import Machine
from devtools.hostile_messages import shapeless
from devtools.site import Site
from schemas import subjects
from schemas.base import encode
from schemas.events import Event, EventKind, Standing

LEASE_S: Final = 2.0
"""Life of a partition's lease: what is away for longer loses its partitions."""

_SKEW_MS: Final = 4000
"""The most by which clocks may differ (`attestream.appraisal.freshness.MAX_SKEW_MS` is a little more)."""
_CORRUPT: Final = 50
_RENEWED: Final = 8
_RENEWAL_S: Final = 90.0
"""How long renewal may take: much longer than it does."""
_ASK_S: Final = 1.0
_LARGEST: Final = 300_000
"""Bytes that the stream of evidence takes."""


class Theatre(NamedTuple):
    """What there is to be broken."""

    site: Site
    fleet: Fleet
    subscribers: Subscribers
    workers: list[Service]
    clocks: dict[str, Clock]
    hosts: Hosts | None
    database: DatabaseServer | None
    small_disk: Path | None
    """Store of the last bus server, when it is a disk of its own."""
    verifier: Bus
    """A connection with a verifier's credentials and nobody's signature."""
    accused: set[str]
    """Agents that a failure was forged of. They get no other identity until an operator starts them: a failure that nobody
    has signed may hide one that is."""

    @property
    def members(self) -> list[str]:
        """Names of the bus servers."""
        return list(self.site.buses)


Inject = Callable[[Theatre, random.Random], Awaitable[str]]
"""Breaks and mends something; returns what it did."""


async def kill_worker(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 a worker and start it again."""
    return await _killed(rng.choice(theatre.workers), rng.uniform(0, 2 * LEASE_S))


async def freeze_worker(theatre: Theatre, rng: random.Random) -> str:
    """Stall a worker for less or more than a lease."""
    return await _frozen(rng.choice(theatre.workers), rng.uniform(0.3, 4) * LEASE_S)


async def restart_worker(theatre: Theatre, rng: random.Random) -> str:
    """Stop a worker in order and start it again."""
    worker = rng.choice(theatre.workers)
    status = await asyncio.to_thread(worker.stop)
    await worker.restart()
    return f"{worker.name} was stopped (exit code {status}) and started"


async def kill_half(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 half of the workers at the same moment."""
    half = rng.sample(theatre.workers, max(1, len(theatre.workers) // 2))
    for worker in half:
        worker.kill()
    await asyncio.sleep(rng.uniform(0, 2 * LEASE_S))
    await asyncio.gather(*(worker.restart() for worker in half))
    return f"{' and '.join(sorted(worker.name for worker in half))} were killed at once"


async def kill_registrar(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 the registrar and start it again."""
    return await _killed(theatre.site.services["registrar"], rng.uniform(0, 4))


async def freeze_registrar(theatre: Theatre, rng: random.Random) -> str:
    """Stall the registrar."""
    return await _frozen(theatre.site.services["registrar"], rng.uniform(1, 6))


async def starve_renewal(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 the registrar while agents ask for their next identities."""
    able = [one for one in theatre.fleet.agents.values() if one.healthy and one.agent_id not in theatre.accused]
    asking = rng.sample(able, min(_RENEWED, len(able)))
    away = rng.uniform(2, 6)
    registrar = theatre.site.services["registrar"]
    registrar.kill()
    renewals = asyncio.gather(*(_renewed(theatre.fleet, machine) for machine in asking))
    await asyncio.sleep(away)
    await registrar.restart()
    await renewals
    return f"registrar was killed and away for {away:.1f} s while {len(asking)} agents asked for their next identities"


async def kill_notifier(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 the notifier and start it again."""
    return await _killed(theatre.site.services["notifier"], rng.uniform(0, 4))


async def freeze_notifier(theatre: Theatre, rng: random.Random) -> str:
    """Stall the notifier."""
    return await _frozen(theatre.site.services["notifier"], rng.uniform(1, 6))


async def kill_services(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 the registrar and the notifier at the same moment."""
    both = [theatre.site.services[name] for name in ("registrar", "notifier")]
    for service in both:
        service.kill()
    away = rng.uniform(0, 3)
    await asyncio.sleep(away)
    await asyncio.gather(*(service.restart() for service in both))
    return f"registrar and notifier were killed at once and away for {away:.1f} s"


async def kill_bus(theatre: Theatre, rng: random.Random) -> str:
    """Kill -9 one of the bus servers and start it again on its store."""
    name = rng.choice(theatre.members)
    away = rng.uniform(0.5, 5)
    server = theatre.site.buses[name]
    server.kill()
    await asyncio.sleep(away)
    await asyncio.to_thread(server.start)
    return f"{name} was killed and away for {away:.1f} s"


async def freeze_bus(theatre: Theatre, rng: random.Random) -> str:
    """Stall one of the bus servers."""
    name = rng.choice(theatre.members)
    away = rng.uniform(1, 8)
    server = theatre.site.buses[name]
    server.freeze()
    await asyncio.sleep(away)
    server.thaw()
    return f"{name} was frozen for {away:.1f} s"


async def kill_database(theatre: Theatre, rng: random.Random) -> str:
    """Crash the database server and start it again."""
    assert theatre.database is not None
    away = rng.uniform(0.5, 6)
    await asyncio.to_thread(theatre.database.crash)
    await asyncio.sleep(away)
    await asyncio.to_thread(theatre.database.start)
    return f"{theatre.database.product} was killed and away for {away:.1f} s"


async def freeze_database(theatre: Theatre, rng: random.Random) -> str:
    """Stall the database server for less or more than a transaction may take."""
    assert theatre.database is not None
    away = rng.uniform(1, 15)
    theatre.database.freeze()
    try:
        await asyncio.sleep(away)
    finally:
        theatre.database.thaw()
    return f"{theatre.database.product} was frozen for {away:.1f} s"


async def cut_host(theatre: Theatre, rng: random.Random) -> str:
    """Cut the network of a host, with the bus server and the workers on it."""
    assert theatre.hosts is not None
    index = rng.randrange(len(theatre.hosts.all))
    away = rng.uniform(2, 10)
    theatre.hosts.cut(index)
    try:
        await asyncio.sleep(away)
    finally:
        theatre.hosts.mend(index)
    return f"host {index + 1} was cut off for {away:.1f} s"


async def fill_disk(theatre: Theatre, rng: random.Random) -> str:
    """Fill the disk of a bus server, make room, and restart the server as its makers ask for."""
    assert theatre.small_disk is not None
    name = theatre.members[-1]
    filler = theatre.small_disk / "filler"
    away = rng.uniform(2, 6)
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)) == 1 << 20:
                pass
    except OSError:
        pass  # full
    await asyncio.sleep(away)
    filler.unlink()
    server = theatre.site.buses[name]
    server.kill()
    await asyncio.to_thread(server.start)
    return f"the disk of {name} was full for {away:.1f} s"


async def skew_clock(theatre: Theatre, rng: random.Random) -> str:
    """Set the clock of a worker wrong, and right again."""
    worker = rng.choice(theatre.workers)
    ahead_ms = rng.choice((-1, 1)) * rng.randrange(500, _SKEW_MS)
    away = rng.uniform(2, 8)
    theatre.clocks[worker.name].set(ahead_ms)
    try:
        await asyncio.sleep(away)
    finally:
        theatre.clocks[worker.name].set(0)
    return f"the clock of {worker.name} was {ahead_ms:+d} ms wrong for {away:.1f} s"


async def corrupt_messages(theatre: Theatre, rng: random.Random) -> str:
    """Put broken, forged and repeated messages where honest ones go, with a service's own credentials for the bus."""
    agents = list(theatre.fleet.agents)
    sent = 0
    for data in [*shapeless(), *(secrets.token_bytes(rng.randrange(1, 2000)) for _ in range(_CORRUPT))]:
        agent_id = rng.choice(agents)
        machine = theatre.fleet.agents[agent_id]
        line = theatre.fleet.network.bus(machine)
        if line is not None and len(data) < _LARGEST:
            await line.nc.publish(subjects.evidence(agent_id), data)
            sent += 1
    for agent_id in rng.sample(agents, min(5, len(agents))):
        forged = Event(
            id=f"forged-{secrets.token_hex(8)}",
            kind=EventKind.FAILED,
            agent_id=agent_id,
            at=unix_ms(),
            standing=Standing.FAILED,
        )
        # A failure that nobody has signed: no one may be revoked for it. And in place of a result: it must be renewed.
        await theatre.verifier.nc.publish(subjects.event(EventKind.FAILED, agent_id), encode(forged))
        theatre.accused.add(agent_id)
        await theatre.verifier.nc.publish(subjects.result(agent_id), encode(forged))
        sent += 2
    return f"{sent} corrupt messages were sent"


async def webhook_down(theatre: Theatre, rng: random.Random) -> str:
    """Take the webhook receiver away, have it refuse for a while, and bring it back."""
    away = rng.uniform(1, 6)
    receiver = theatre.subscribers.receiver
    await receiver.stop()
    await asyncio.sleep(away / 2)
    receiver.status = 503
    await receiver.start()
    await asyncio.sleep(away / 2)
    receiver.status = 200
    return f"the webhook receiver was down and then refused, for {away:.1f} s"


INJECTIONS: Final[dict[str, Inject]] = {
    "kill-worker": kill_worker,
    "freeze-worker": freeze_worker,
    "restart-worker": restart_worker,
    "kill-half": kill_half,
    "kill-registrar": kill_registrar,
    "freeze-registrar": freeze_registrar,
    "starve-renewal": starve_renewal,
    "kill-notifier": kill_notifier,
    "freeze-notifier": freeze_notifier,
    "kill-services": kill_services,
    "kill-bus": kill_bus,
    "freeze-bus": freeze_bus,
    "kill-database": kill_database,
    "freeze-database": freeze_database,
    "cut-host": cut_host,
    "fill-disk": fill_disk,
    "skew-clock": skew_clock,
    "corrupt-messages": corrupt_messages,
    "webhook-down": webhook_down,
}


async def _renewed(fleet: Fleet, machine: Machine) -> None:
    """Ask until the identity of ``machine`` is renewed, as an agent does while the one that it has still holds."""
    deadline = time.monotonic() + _RENEWAL_S
    while machine.healthy:
        try:
            await fleet.network.renew(machine)
            return
        except AttestreamError as error:
            if time.monotonic() > deadline:
                fleet.failures.append(f"the identity of {machine.agent_id} was not renewed: {error.message}")
                return
        await asyncio.sleep(_ASK_S)


async def _killed(service: Service, away: float) -> str:
    service.kill()
    await asyncio.sleep(away)
    await service.restart()
    return f"{service.name} was killed and away for {away:.1f} s"


async def _frozen(service: Service, away: float) -> str:
    service.freeze()
    try:
        await asyncio.sleep(away)
    finally:
        service.thaw()
    return f"{service.name} was frozen for {away:.1f} s"
