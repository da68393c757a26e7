"""How long a worker that begins needs until it attests all of 10,000 agents, with a long record behind them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec

from attestream.appraisal.state import AttesterState
from attestream.bus import keyvalue, objects
from attestream.bus.connection import Bus, BusSettings, connect
from attestream.bus.partitions import partition
from attestream.client import trusted
from attestream.clock import unix_ms
from attestream.database import migrate, open_engine
from bench.report import Report, against
from bench.stack import POLICY, BenchError, Stack, stack, until
from devtools.pool import allowing, make_agent
from devtools.postgres import Postgres
from devtools.secure_bus import everybody
from schemas import subjects, topology
from schemas.base import encode
from schemas.commands import PolicyRecord
from schemas.events import Event, EventKind, Finding, Result, Standing
from schemas.roles import Role
from services.verifier.store import Row, Store, pack_findings

AGENTS: Final = 10_000
EVENTS: Final = 1_000_000
"""A hundred changes of each agent: two a week for a year."""
RUNS: Final = 3
GOAL_S: Final = 5.0

_KINDS: Final = (EventKind.UNREACHABLE, EventKind.RECOVERED, EventKind.WARNED, EventKind.TRUSTED)
_STANDINGS: Final = (Standing.UNREACHABLE, Standing.TRUSTED, Standing.TRUSTED, Standing.TRUSTED)
_LEASE_MS: Final = 3_600_000
_INTERVAL_MS: Final = 30_000
_UNACKNOWLEDGED: Final = 4_000
_PADDING: Final = "x" * 300
"""In place of the signatures of events that nobody reads back."""


class Started(NamedTuple):
    """Seconds from the start of the process."""

    first: float
    """Until the first agent was challenged."""
    last: float
    """Until each of them was."""


async def measure(agents: int = AGENTS, events: int = EVENTS, runs: int = RUNS) -> dict[str, list[Started]]:
    """Return what each run took, by the kind of database. The first run of each finds rows that no worker has left.

    :raises BenchError: something went wrong on the way.
    """
    found: dict[str, list[Started]] = {}
    postgres = Postgres()
    postgres.start()
    try:
        async with stack(challenges_in_flight=str(2 * agents)) as parts:
            async with _verifier(parts) as bus:
                await _publish_policy(parts.client.bus, bus)
                numbers = await _fill(bus, agents, events)
            databases = {"sqlite": f"sqlite:///{parts.place.directory}/verifier.db", "postgresql": postgres.new_database()}
            for name, url in databases.items():
                await _fill_table(url, agents, numbers)
                found[name] = [await _start(parts, f"{name}-{run}", url, agents) for run in range(runs)]
    finally:
        postgres.stop()
    return found


async def report_ready(report: Report) -> None:
    """Measure and report."""
    found = await measure()
    rows = []
    for name, runs in found.items():
        for label, run in (("rows of an earlier life", runs[0]), ("after an orderly end", max(runs[1:], key=_last))):
            rows.append((name, label, f"{run.first:.2f} s", against(run.last, GOAL_S, more=False, unit=" s")))
    caption = (
        f"From the start of the process until the worker, alone, had challenged each of {AGENTS:,} agents, with {EVENTS:,} "
        "events in the stream, results and the newest events signed. Rows of an earlier life have no mark that says where "
        "to begin to read: every agent's last events are asked for."
    )
    figures = {f"ready_10k_{name}_s": round(max(runs[1:], key=_last).last, 2) for name, runs in found.items()}
    figures |= {f"ready_10k_{name}_unknown_s": round(runs[0].last, 2) for name, runs in found.items()}
    figures["ready_10k_s"] = max(round(max(runs[1:], key=_last).last, 2) for runs in found.values())
    report.table("ready: a worker begins", ["database", "it finds", "first", "all"], rows, caption, dict(figures))


def _last(run: Started) -> float:
    return run.last


@asynccontextmanager
async def _verifier(parts: Stack) -> AsyncIterator[Bus]:
    """Connect as a verifier does, and sign like one."""
    bus = await connect(BusSettings(urls=[parts.server.url], credentials=parts.place.credentials(Role.VERIFIER)))
    try:
        await trusted(parts.place.root_public, signing_key=parts.place.service_key(Role.VERIFIER)).start(bus)
        yield bus
    finally:
        await bus.close()


async def _publish_policy(author: Bus, verifier: Bus) -> None:
    digest = await objects.put(author, topology.POLICIES, json.dumps(allowing("boot_aggregate")).encode())
    record = PolicyRecord(name=POLICY, version=1, digest=digest, at=unix_ms(), entries=1)
    key = topology.policy_key(POLICY, 1)
    await keyvalue.put(verifier, topology.CLUSTER.name, key, encode(record), expected=0, sign=True)


def _name(number: int) -> str:
    return f"agent-{number:06d}"


async def _fill(bus: Bus, agents: int, events: int) -> int:
    """Put ``events`` events and a result of each agent on the bus; return how many events each agent has."""
    numbers = max(1, events // agents)
    async with _publishing(bus) as publish:
        for number in range(1, numbers + 1):
            # Only the newest of each kind are ever read back.
            signed = number > numbers - len(_KINDS)
            for event in _events(number, agents):
                await publish(subjects.event(event.kind, event.agent_id), encode(event), signed=signed)
        now = unix_ms()
        for agent in range(agents):
            await publish(subjects.result(_name(agent)), encode(_result(agent, numbers, now)), signed=True)
    return numbers


def _events(number: int, agents: int) -> Iterator[Event]:
    turn = number % len(_KINDS)
    for agent in range(agents):
        yield Event(
            id=f"{_name(agent)}:first:{number}",
            kind=_KINDS[turn],
            agent_id=_name(agent),
            at=unix_ms(),
            event_number=number,
            enrolment=1,
            standing=_STANDINGS[turn],
            policy=f"{POLICY}@1",
            detail=_PADDING,
            worker="before",
            fence=1,
        )


def _result(agent: int, number: int, now: int) -> Result:
    return Result(
        agent_id=_name(agent),
        standing=Standing.TRUSTED,
        at=now,
        expires_at=now + _LEASE_MS,
        seq=now,
        event_number=number,
        enrolment=1,
        policy=f"{POLICY}@1",
        worker="before",
        fence=1,
    )


@asynccontextmanager
async def _publishing(bus: Bus) -> AsyncIterator[Any]:
    """Yield what stores messages as fast as the server takes them; at the end all of them are stored."""
    inbox = bus.nc.new_inbox()
    sent = stored = 0
    refused = ""
    more = asyncio.Event()

    async def acknowledged(message: Any) -> None:
        nonlocal stored, refused
        stored += 1
        if b'"error"' in message.data:
            refused = message.data.decode()
        more.set()

    async def room(limit: int) -> None:
        async with asyncio.timeout(60):
            while sent - stored > limit:
                more.clear()
                await bus.nc.flush()
                if sent - stored > limit:
                    await more.wait()
        if refused:
            raise BenchError(f"the record could not be written: {refused}")

    async def publish(subject: str, data: bytes, *, signed: bool) -> None:
        nonlocal sent
        if sent - stored >= _UNACKNOWLEDGED:
            await room(_UNACKNOWLEDGED // 2)
        await bus.nc.publish(subject, data, reply=inbox, headers=bus.trust.sign(subject, data) if signed else None)
        sent += 1

    subscription = await bus.nc.subscribe(inbox, cb=acknowledged, pending_msgs_limit=0, pending_bytes_limit=0)
    yield publish
    await room(0)
    await subscription.unsubscribe()


async def _fill_table(url: str, agents: int, number: int) -> None:
    engine = open_engine(url)
    try:
        await migrate(engine, "services.verifier.migrations")
        now = unix_ms()
        public = make_agent("any", ak="rsa2048").tpm.ak_public
        state = AttesterState(ima_entries=1_000, ima_pcr=bytes(32), pcr_digest=bytes(32), clock=now).encode()
        rows = [_row(agent, public, state, number, now) for agent in range(agents)]
        await Store(engine).save(rows)
    finally:
        await engine.dispose()


def _row(agent: int, public: bytes, state: bytes, number: int, now: int) -> Row:
    name = _name(agent)
    findings: list[Finding] = []
    return Row(
        agent_id=name,
        partition=partition(subjects.token(name)),
        fence=1,
        policy=f"{POLICY}@1",
        interval_ms=_INTERVAL_MS,
        lease_ms=_LEASE_MS,
        enrolment=1,
        identity=msgspec.msgpack.encode((public, hashlib.sha256(name.encode()).digest())),
        standing=Standing.TRUSTED,
        state=state,
        accepted=now,
        incarnation="first",
        event_number=number,
        last_command="first",
        commanded_at=now,
        last_at=now,
        findings=pack_findings(findings),
    )


async def _start(parts: Stack, name: str, url: str, agents: int) -> Started:
    """Start a worker, note when it has challenged everybody, and end it in order."""
    times: dict[str, float] = {}

    async def challenged(message: Any) -> None:
        times.setdefault(message.subject, time.monotonic())

    fleet = await everybody(parts.place, BusSettings(urls=[parts.server.url]))
    await fleet.nc.subscribe(subjects.challenge_of("*"), cb=challenged, pending_msgs_limit=0, pending_bytes_limit=0)
    await fleet.nc.flush()
    began = time.monotonic()
    program = parts.worker(name, database_url=url)
    await until(lambda: len(times) == agents, f"{name} has challenged {agents} agents", pause_s=0.01, timeout_s=120)
    await asyncio.to_thread(program.stop)
    await fleet.close()
    return Started(min(times.values()) - began, max(times.values()) - began)
