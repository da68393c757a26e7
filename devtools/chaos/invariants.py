"""What must hold after every injection, and how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.client import Client
from attestream.clock import unix_ms
from attestream.errors import AttestreamError
from devtools.chaos.injections import Theatre
from devtools.fleet.audit import Record, deviations, standings
from devtools.fleet.fleet import Fleet
from schemas import topology
from schemas.events import Event, EventKind, Result, Standing

MEMORY_FACTOR: Final = 1.5
MEMORY_MIB: Final = 64.0
"""A process may hold this factor of what it held at first, and so many MiB more."""

_LOOK_S: Final = 0.25
_LONG_S: Final = 10.0
_SHOWN: Final = 5


class Verdict(msgspec.Struct):
    """What was found after one injection. Times are in seconds since everything was mended."""

    wrong: list[str] = []
    renewed_s: float = 0.0
    """Until every healthy agent was trusted for an appraisal of after the mending."""
    settled_s: float = 0.0
    """Until every failing agent had failed, and everybody had heard of it."""
    waits: dict[str, float] = {}
    """How long was waited for which check."""
    failures: int = 0
    """Failing transitions so far."""
    lapses: int = 0
    """Results that ran out so far: of machines that could not be asked for longer than two thirds of a lease."""
    repeated: dict[str, int] = {}
    """By subscriber how many revocations came more than once so far."""
    memory_mib: dict[str, float] = {}


class Invariants:
    """Looks at a theatre from outside. ``counting`` is a connection that may ask how much a stream holds."""

    def __init__(
        self, theatre: Theatre, client: Client, counting: Bus, *, patience_s: float, tell: Callable[[str], None]
    ) -> None:
        self._theatre = theatre
        self._client = client
        self._counting = counting
        self._record = Record(client.bus)
        self._patience_s = patience_s
        self._tell = tell
        self._memory: dict[str, float] = {}
        self._seen: set[str] = set()
        self._complete: set[str] = set()
        self.events: list[Event] = []
        """As they were read last."""

    def note_memory(self) -> None:
        """Take what every process holds now for its measure."""
        self._memory = memory(self._theatre)

    async def check(self, mended_at: int) -> Verdict:
        """Look until everything holds, or patience ends. ``mended_at`` is in Unix milliseconds, 0: nothing was broken."""
        self._complete.clear()
        verdict, fleet, began = (
            Verdict(),
            self._theatre.fleet,
            time.monotonic() - (unix_ms() - (mended_at or unix_ms())) / 1000,
        )

        async def renewed() -> list[str]:
            return _not_renewed(fleet, await self._record.results(), mended_at)

        async def settled() -> list[str]:
            return standings(fleet, await self._record.results())

        verdict.wrong += await self._until_none(renewed)
        verdict.renewed_s = time.monotonic() - began
        for look in (settled, self._delivered, self._recorded, self._emptied, self._proven):
            before = time.monotonic()
            verdict.wrong += await self._until_none(look)
            verdict.waits[look.__name__.strip("_")] = round(time.monotonic() - before, 1)
        verdict.settled_s = time.monotonic() - began
        verdict.wrong += fleet.failures
        fleet.failures.clear()
        verdict.failures = sum(event.kind is EventKind.FAILED for event in self.events)
        verdict.lapses = sum(event.kind is EventKind.LAPSED for event in self.events)
        heard = self._theatre.subscribers.heard()
        verdict.repeated = {name: sum(count > 1 for count in ids.values()) for name, ids in heard.items()}
        verdict.wrong += await self._until_none(self._remembered)
        verdict.memory_mib = memory(self._theatre)
        return verdict

    async def _delivered(self) -> list[str]:
        """Every failing transition reached every subscriber, and nothing else did."""
        self.events = await self._record.events()
        failed = {event.id for event in self.events if event.kind is EventKind.FAILED}
        wrong = []
        for name, ids in self._theatre.subscribers.heard().items():
            wrong += [f"{name} has not heard of failure {id_}" for id_ in failed - ids.keys()]
            wrong += [f"{name} has heard of {id_}, which is no failure" for id_ in ids.keys() - failed]
        return wrong

    async def _recorded(self) -> list[str]:
        """The record says what the machines did, and nothing that was on it is missing now."""
        self.events = await self._record.events()
        ids = {event.id for event in self.events}
        seen = self._seen | self._theatre.subscribers.events.keys()
        wrong = [f"event {id_} was on the record and is not any more" for id_ in seen - ids]
        self._seen = ids
        return wrong + deviations(self._theatre.fleet, self.events, await self._record.revocations())

    async def _emptied(self) -> list[str]:
        """Whatever was acknowledged on its way to a verifier has been dealt with."""
        wrong = []
        for stream in (topology.EVIDENCE.name, topology.COMMANDS.name):
            info = await jetstream.call(self._counting, f"STREAM.INFO.{stream}")
            if info["state"]["messages"]:
                wrong.append(f"{info['state']['messages']} messages are waiting in {stream}")
        return wrong

    async def _proven(self) -> list[str]:
        """A verifier has seen every line of every healthy machine's log."""
        # Whichever worker is asked knows its own agents, and of others what their owners have written down so far.
        for agent in (await self._client.fleet()).agents:
            machine = self._theatre.fleet.agents.get(agent.agent_id)
            if machine is not None and agent.ima_entries == len(machine.log):
                self._complete.add(agent.agent_id)
        return [
            f"not every line of the log of {machine.agent_id} is proven"
            for machine in self._theatre.fleet.agents.values()
            if machine.healthy and machine.agent_id not in self._complete
        ]

    async def _remembered(self) -> list[str]:
        """No process holds more than before, but for what its allocator keeps."""
        return [
            f"{name} holds {now:.0f} MiB and held {self._memory[name]:.0f} MiB at first"
            for name, now in memory(self._theatre).items()
            if name in self._memory and now > MEMORY_FACTOR * self._memory[name] + MEMORY_MIB
        ]

    async def _until_none(self, look: Callable[[], Awaitable[list[str]]]) -> list[str]:
        began, told = time.monotonic(), False
        while True:
            try:
                wrong = await asyncio.wait_for(look(), self._patience_s)
            except TimeoutError:
                wrong = [f"{look.__name__.strip('_')}: there is no answer"]
            except AttestreamError as error:
                # The bus may be between two leaders.
                wrong = [f"{look.__name__.strip('_')}: {error.message}"]
            waited = time.monotonic() - began
            if wrong and not told and waited > _LONG_S:
                told = True
                self._tell(f"   after {waited:.0f} s still: {wrong[0]}")
            if not wrong or waited > self._patience_s:
                return wrong[:_SHOWN] + ([f"... and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else [])
            await asyncio.sleep(_LOOK_S)


def memory(theatre: Theatre) -> dict[str, float]:
    """Return the resident memory of every process of the installation in MiB."""
    pids = {name: service.pid for name, service in theatre.site.services.items() if service.alive}
    pids |= {name: server.pid for name, server in theatre.site.buses.items()}
    return {name: _resident(pid) for name, pid in pids.items()}


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _not_renewed(fleet: Fleet, results: dict[str, Result], since: int) -> list[str]:
    wrong = []
    for machine in fleet.agents.values():
        result = results.get(machine.agent_id)
        if machine.healthy and (result is None or result.standing is not Standing.TRUSTED or result.at < since):
            found = result.standing if result is not None else Standing.UNKNOWN
            wrong.append(f"{machine.agent_id} is healthy, and is {found} or was not attested since")
    return wrong


def summary(events: list[Event]) -> dict[str, int]:
    """Return how many events of each kind there are."""
    return dict(sorted(Counter(str(event.kind) for event in events).items()))
