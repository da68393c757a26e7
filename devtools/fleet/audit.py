"""Compares what is on the record with what every machine did."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

from attestream.bus.connection import Bus
from attestream.bus.stored import Stored, last_messages, messages
from attestream.clock import unix_ms
from attestream.errors import RefusedError
from devtools.fleet.fleet import Fleet
from devtools.fleet.machine import Machine
from schemas import subjects, topology
from schemas.base import Decoder, M, SchemaError
from schemas.events import Event, EventKind, Result, Revocation, Signed, Standing
from schemas.roles import Role

_EVENT: Final = Decoder[Event](Event)
_RESULT: Final = Decoder[Result](Result)
_SIGNED: Final = Decoder[Signed](Signed)
_LOOK_S: Final = 0.2
_SHOWN: Final = 10


class Record:
    """What the streams hold, as far as it can be believed. ``bus`` is of somebody who may read all of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.rejected: set[tuple[str, int]] = set()
        """Stream and sequence of what was not made by whom it must be, or can not be read."""

    async def events(self) -> list[Event]:
        """Return all events, in order."""
        found = [stored async for stored in messages(self._bus, topology.EVENTS.name, "att.event.*.*")]
        own = [stored for stored in found if not stored.subject.startswith("att.event.fence.")]
        return [event for stored in own if (event := await self._read(topology.EVENTS.name, stored, _EVENT)) is not None]

    async def revocations(self) -> list[Revocation]:
        """Return all revocations, in order.

        :raises AttestreamError: one was not signed by the notifier.
        """
        found = [stored async for stored in messages(self._bus, topology.REVOCATIONS.name, subjects.REVOCATIONS)]
        return [
            await self._bus.trust.open(_SIGNED.decode(stored.data), Revocation, Role.NOTIFIER, stored.at, _signed_at)
            for stored in found
        ]

    async def results(self) -> dict[str, Result]:
        """Return the results that hold now, by agent."""
        stored = await last_messages(self._bus, topology.RESULTS.name, [subjects.RESULTS])
        live = [one for one in stored if one.data and not one.marker]
        found = [await self._read(topology.RESULTS.name, one, _RESULT) for one in live]
        return {result.agent_id: result for result in found if result is not None and result.expires_at > unix_ms()}

    async def _read(self, stream: str, stored: Stored, decoder: Decoder[M]) -> M | None:
        try:
            await self._bus.trust.author_of(stored)
            return decoder.decode(stored.data)
        except (RefusedError, SchemaError):
            self.rejected.add((stream, stored.sequence))
            return None


async def settled(fleet: Fleet, record: Record, timeout_s: float) -> list[str]:
    """Wait until every machine stands as it must; return what is still wrong after ``timeout_s`` seconds."""
    return await until_none(lambda results: standings(fleet, results), record, timeout_s)


async def until_none(wrong: Callable[[dict[str, Result]], list[str]], record: Record, timeout_s: float) -> list[str]:
    """Look at the results until nothing is ``wrong``; return what still is after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = wrong(await record.results())
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(_LOOK_S)


def standings(fleet: Fleet, results: dict[str, Result]) -> list[str]:
    """Return which machines do not stand as they must."""
    wrong = []
    for machine in fleet.agents.values():
        result = results.get(machine.agent_id)
        found = result.standing if result is not None else Standing.UNKNOWN
        if found not in machine.owed.standing:
            owed = " or ".join(machine.owed.standing)
            why = ", ".join(finding.code for finding in result.findings) if result is not None else ""
            wrong.append(f"{machine.agent_id} is {found} ({why}) and must be {owed}")
    return wrong


def deviations(fleet: Fleet, events: list[Event], revocations: list[Revocation]) -> list[str]:
    """Return where the record says something else than what the machines did."""
    wrong = [
        f"event {id_} is there {count} times" for id_, count in Counter(event.id for event in events).items() if count > 1
    ]
    of: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        of[event.agent_id].append(event)
    for machine in fleet.agents.values():
        wrong += _of_machine(machine, of[machine.agent_id])
    failed = [event.id for event in events if event.kind is EventKind.FAILED]
    signed = Counter(revocation.id for revocation in revocations)
    wrong += [f"failure {id_} was not revoked" for id_ in failed if id_ not in signed]
    wrong += [f"revocation {id_} follows from no failure" for id_ in signed if id_ not in set(failed)]
    wrong += [f"revocation {id_} was signed {count} times" for id_, count in signed.items() if count > 1]
    return wrong + owners(events)


def owners(events: list[Event]) -> list[str]:
    """Return where two workers acted for one agent under one fencing token, or an owner wrote after its successor."""
    wrong = []
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    last: dict[str, int] = {}
    for event in events:
        if not event.worker or not event.fence:
            continue
        holders[event.agent_id, event.fence].add(event.worker)
        if event.fence < last.get(event.agent_id, 0):
            wrong.append(
                f"event {event.event_number} of {event.agent_id} was written under an older fence than the one before"
            )
        last[event.agent_id] = event.fence
    return wrong + [f"{key[0]} had two owners: {', '.join(names)}" for key, names in holders.items() if len(names) > 1]


def _of_machine(machine: Machine, events: list[Event]) -> list[str]:
    name, owed, wrong = machine.agent_id, machine.owed, []
    numbers = [event.event_number for event in events if event.event_number and event.kind is not EventKind.REFUSED]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"the events of {name} are not numbered one after the other: {numbers[:_SHOWN]}")
    failed = [event for event in events if event.kind is EventKind.FAILED]
    if len(failed) != len(owed.failures):
        wrong.append(f"{name} has failed {len(failed)} times on the record and {len(owed.failures)} times in truth")
    for culprit, event in zip(owed.failures, failed, strict=False):
        if culprit and culprit not in {finding.culprit for finding in event.findings}:
            wrong.append(f"the failure of {name} does not blame {culprit}")
    kinds = {event.kind for event in events}
    if not owed.may_be_missed and kinds & {EventKind.UNREACHABLE, EventKind.LAPSED}:
        wrong.append(f"{name} is on the record as absent and always answered")
    if not owed.may_be_refused and EventKind.REFUSED in kinds:
        wrong.append(f"evidence of {name} was refused and was honest")
    return wrong


def _signed_at(revocation: Revocation) -> int:
    return revocation.signed_at
