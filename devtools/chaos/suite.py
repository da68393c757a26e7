"""A round of chaos: sets the theatre up, injects one failure after another under load, and judges each."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from attestream.client import Client
from attestream.clock import unix_ms
from devtools.chaos import hosts as networks
from devtools.chaos.hosts import Hosts
from devtools.chaos.injections import INJECTIONS, Theatre
from devtools.chaos.invariants import Invariants, Verdict, summary
from devtools.chaos.load import Load
from devtools.chaos.skewed import Clock
from devtools.chaos.subscribers import Subscribers
from devtools.cluster import Service
from devtools.database_server import DatabaseServer
from devtools.fleet.director import Director
from devtools.fleet.fleet import Fleet
from devtools.fleet.scenario import Image, Scenario
from devtools.mariadb import MariaDb
from devtools.postgres import Postgres
from devtools.quiet import quiet
from devtools.site import Host, Site
from schemas.roles import Role

Tell = Callable[[str], None]

_DISK_MIB: Final = 96
_SLOW_S: Final = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How large the theatre is, and how long it is played."""

    seed: int
    minutes: float = 0.0
    """How long failures are drawn at random after each was injected once; 0: not at all."""
    only: Sequence[str] = tuple(INJECTIONS)
    agents: int = 100
    workers: int = 4
    servers: int = 3
    own: bool = True
    """Whether each agent has a connection of its own."""
    database: Literal["postgresql", "mariadb", "sqlite"] = "postgresql"
    """Where the verifiers keep their rows."""
    hosts: bool = True
    wounds: int = 3
    """Machines that are to fail, in each round."""
    span_s: float = 3.0
    """Within about so many seconds."""
    interval_ms: int = 1000
    lease_ms: int = 10_000
    patience_s: float = 150.0
    """How long anything may take that must come to pass: much longer than it does, for slow machines."""


class Tally(msgspec.Struct):
    """What was injected and what was counted."""

    injected: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: dict[str, str] = {}
    wrong: list[str] = []
    renewed_s: list[float] = []
    settled_s: list[float] = []
    failures: int = 0
    lapses: int = 0
    repeated: dict[str, int] = {}
    events: dict[str, int] = {}
    acknowledged: int = 0
    answers: int = 0
    memory_mib: dict[str, float] = {}


async def run(plan: Plan, tell: Tell) -> Tally:
    """Play ``plan`` and return what was counted.

    :raises AttestreamError: the installation can not be set up.
    :raises AssertionError: the same.
    """
    # Connections end all the time here, and say so.
    with quiet("attestream.bus", "attestream.client", "asyncio", "aiohttp"):
        return await _run(plan, tell)


async def _run(plan: Plan, tell: Tell) -> Tally:
    tally = Tally()
    async with _theatre(plan, tell, tally) as (theatre, client):
        director = Director(theatre.fleet, client, tell)
        await director.admit()
        counting = await theatre.site.connect(Role.PROVISIONER)
        invariants = Invariants(theatre, client, counting, patience_s=plan.patience_s, tell=tell)
        load = Load(theatre.fleet, director)
        try:
            _add(tally, "set-up", await invariants.check(0), tell)
            invariants.note_memory()
            await _rounds(plan, theatre, load, invariants, tally, tell)
        finally:
            await load.stop()
            await counting.close()
        tally.events = summary(invariants.events)
        tally.acknowledged, tally.answers = theatre.fleet.acknowledged, theatre.fleet.answered
    return tally


async def _rounds(plan: Plan, theatre: Theatre, load: Load, invariants: Invariants, tally: Tally, tell: Tell) -> None:
    order = random.Random(f"{plan.seed}:order")
    names = [name for name in plan.only if name not in tally.skipped]
    turn = order.sample(names, len(names))
    ends = time.monotonic() + 60 * plan.minutes
    number = 0
    while turn or time.monotonic() < ends:
        await load.readmit()
        name = turn.pop(0) if turn else order.choice(names)
        number += 1
        # Each injection has random numbers of its own: how the ones before went changes nothing.
        rng = random.Random(f"{plan.seed}:{number}:{name}")
        load.start()
        wounding = asyncio.create_task(load.wound(plan.wounds, plan.span_s, random.Random(f"{plan.seed}:{number}:wounds")))
        await asyncio.sleep(rng.uniform(0, 1))
        what = await INJECTIONS[name](theatre, rng)
        mended_at = unix_ms()
        await wounding
        await load.stop()
        tally.injected[name] += 1
        tell(f"{number}. {name}: {what}")
        verdict = await invariants.check(mended_at)
        _add(tally, f"{number}. {name}", verdict, tell)
        if verdict.wrong:
            return


def _add(tally: Tally, name: str, verdict: Verdict, tell: Tell) -> None:
    tally.wrong += [f"after {name}: {text}" for text in verdict.wrong]
    tally.renewed_s.append(verdict.renewed_s)
    tally.settled_s.append(verdict.settled_s)
    tally.failures, tally.repeated, tally.memory_mib = verdict.failures, verdict.repeated, verdict.memory_mib
    lapses, tally.lapses = verdict.lapses - tally.lapses, verdict.lapses
    tell(
        f"   healthy agents trusted again after {verdict.renewed_s:.1f} s ({lapses} results had lapsed), all checks after "
        f"{verdict.settled_s:.1f} s; {verdict.failures} failures, heard of more than once: {verdict.repeated}"
    )
    slow = {look: seconds for look, seconds in verdict.waits.items() if seconds > _SLOW_S}
    if slow:
        tell(f"   waited for (s): {slow}")
    for text in verdict.wrong:
        tell(f"   BROKEN: {text}")


@asynccontextmanager
async def _theatre(plan: Plan, tell: Tell, tally: Tally) -> AsyncIterator[tuple[Theatre, Client]]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attestream-chaos-")))
        hosts = _hosts(plan, tell, tally)
        if hosts is not None:
            stack.callback(hosts.close)
        database: DatabaseServer | None = None
        if plan.database == "sqlite":
            for name in ("kill-database", "freeze-database"):
                tally.skipped[name] = "the verifiers have an SQLite file"
        else:
            database = MariaDb() if plan.database == "mariadb" else Postgres()
            stack.callback(database.remove)
            await asyncio.to_thread(database.start)
        site = Site(
            directory,
            servers=plan.servers,
            database=database.new_database() if database is not None else "",
            sections=_sections(plan),
            hosts=hosts.all if hosts is not None else (Host(),),
        )
        disk = _small_disk(site, stack, tell, tally) if plan.servers > 1 else None
        if disk is None:
            tally.skipped.setdefault("fill-disk", "there is no disk of its own")
        stack.callback(site.close)
        await site.start_bus()
        client = await stack.enter_async_context(site.client())
        subscribers = Subscribers(site, client, directory, tell)
        stack.push_async_callback(subscribers.stop)
        workers, clocks = await _services(plan, site, subscribers, directory)
        scenario = Scenario(
            doc="Chaos.",
            interval_ms=plan.interval_ms,
            lease_ms=plan.lease_ms,
            connections="own" if plan.own else "shared",
            image=Image(files=300, at_boot=10),
        )
        fleet = Fleet(site, scenario, agents=plan.agents, seed=plan.seed)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        verifier = await site.connect(Role.VERIFIER)
        stack.push_async_callback(verifier.close)
        tell(f"{plan.agents} agents, {plan.workers} workers, {plan.servers} bus servers; a seed of {plan.seed}")
        yield Theatre(site, fleet, subscribers, workers, clocks, hosts, database, disk, verifier, set()), client


async def _services(
    plan: Plan, site: Site, subscribers: Subscribers, directory: Path
) -> tuple[list[Service], dict[str, Clock]]:
    """Start everything else at once; return the workers and their clocks."""
    names = [f"verifier-{number + 1}" for number in range(plan.workers)]
    clocks = {name: Clock(directory / f"{name}.clock") for name in names}
    webhook = {"name": "chaos", "url": subscribers.receiver.url, "timeout_s": 2.0}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(site.service("registrar", "registrar", host=Host()))
        tasks.create_task(site.service("notifier", "notifier", host=Host(), retry_base_s=0.1, webhooks=[webhook]))
        tasks.create_task(subscribers.start())
        for number, name in enumerate(names):
            launcher = [sys.executable, "-m", "devtools.chaos.skewed", str(clocks[name].path)]
            tasks.create_task(site.service("verifier", name, host=site.host(number), launcher=launcher, worker_id=name))
    return [site.services[name] for name in names], clocks


def _sections(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "verifier": {
            "challenge_timeout_ms": 2000,
            "lease_floor_s": plan.lease_ms / 1000,
            "database_connections": 4,
            "database_timeout_s": 5.0,
        },
        "limits": {"enrolments_per_s": 10_000.0},
    }


def _hosts(plan: Plan, tell: Tell, tally: Tally) -> Hosts | None:
    reason = networks.obstacle() if plan.hosts else "not asked for"
    if plan.hosts and not reason:
        return Hosts(plan.servers)
    tally.skipped["cut-host"] = reason
    if plan.hosts:
        tell(f"no host is cut off: {reason}")
    return None


def _small_disk(site: Site, stack: AsyncExitStack, tell: Tell, tally: Tally) -> Path | None:
    """Give the last server's store a small disk of its own."""
    if os.geteuid() != 0:
        tally.skipped["fill-disk"] = "mounting a small disk needs root"
        tell("no disk is filled: mounting a small one needs root")
        return None
    store = site.place.servers / list(site.buses)[-1] / "jetstream"
    store.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0700", "attestream-chaos", str(store)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        tally.skipped["fill-disk"] = mounted.stderr.decode(errors="replace").strip()
        tell(f"no disk is filled: {tally.skipped['fill-disk']}")
        return None
    stack.callback(subprocess.run, ["umount", str(store)], check=False)
    return store
