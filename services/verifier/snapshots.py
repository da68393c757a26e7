"""Up to which event the rows of each partition tell all: whoever takes it over need not read what is before.

A mark is written in the transaction of the rows that it speaks of. It says that no event about an agent of the partition,
at its sequence in EVENTS or before, is missing from the rows. It counts only for whoever takes the partition over from the
very owner that wrote it, and is never written while something may be on the record that the rows will not tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.errors import AttestreamError
from schemas import topology

log = logging.getLogger(__name__)

MARK_S: Final = 5.0
"""Time between two looks at the end of the record, and between two marks of one partition."""


class Mark(msgspec.Struct, frozen=True):
    """What is kept of one partition beside its rows."""

    partition: int
    fence: int
    """Token of the owner that wrote it."""
    sequence: int
    """In EVENTS: what is there or before is in the rows."""

    def since(self, before: int, token: int) -> int | None:
        """Return the sequence behind which an owner has to read, or ``None``: this mark says nothing to it.

        ``token`` is that owner's and ``before`` the one that was valid until then. A record that was put back to an older
        copy, or an owner in between that left no mark, shows in them.
        """
        return self.sequence if self.fence == before and self.fence <= self.sequence < token else None


class _Fence(Protocol):
    @property
    def token(self) -> int: ...


class Owned(Protocol):
    """What is asked of a partition."""

    @property
    def index(self) -> int:
        """Its number."""
        ...

    @property
    def owned(self) -> bool:
        """Whether this worker may write for it."""
        ...

    @property
    def fence(self) -> _Fence:
        """Its fencing token."""
        ...

    @property
    def unsettled(self) -> set[str]:
        """Agents about which something may be on the record that is in no row to come."""
        ...


class Snapshots:
    """The marks of the partitions that one worker owns."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._partitions: dict[int, Owned] = {}
        self._written: dict[int, int] = {}
        self._position = 0
        """A sequence that EVENTS has given out already: what is published from now on comes behind it."""
        self._due = 0.0

    def begin(self, partition: Owned) -> None:
        """Mark ``partition`` from now on: its agents are loaded, and what their rows lack is waiting to be written."""
        self._partitions[partition.index] = partition
        self._written.pop(partition.index, None)
        self.reached(partition.fence.token)
        self._due = 0.0

    def end(self, partition: Owned) -> None:
        """Mark ``partition`` no more."""
        if self._partitions.get(partition.index) is partition:
            del self._partitions[partition.index]

    def reached(self, sequence: int) -> None:
        """Note that EVENTS has given out ``sequence``."""
        self._position = max(self._position, sequence)

    def marks(self, now: float, *, at_once: bool = False) -> list[Mark]:
        """Return what may be written together with all rows of owned partitions that wait.

        ``now`` is in seconds, by any clock. ``at_once``: not only every :data:`MARK_S`.
        """
        if not at_once and now < self._due <= now + MARK_S:
            return []
        self._due = now + MARK_S
        return [
            Mark(index, partition.fence.token, self._position)
            for index, partition in self._partitions.items()
            if partition.owned and not partition.unsettled and self._written.get(index) != self._position
        ]

    def written(self, marks: Iterable[Mark]) -> None:
        """Note that ``marks`` are in the database."""
        self._written.update((mark.partition, mark.sequence) for mark in marks)

    async def run(self) -> None:
        """Follow the end of the record, for ever: what others put there moves the marks of a quiet partition too."""
        while True:
            try:
                await self._look()
            except AttestreamError as error:
                log.debug("the end of the record is not known for now: %s", error.message)
            await asyncio.sleep(MARK_S)

    async def _look(self) -> None:
        answer = await jetstream.call(self._bus, f"STREAM.INFO.{topology.EVENTS.name}")
        last = int(answer["state"]["last_seq"])
        if last < self._position:
            log.error("the record ends at %d, where it had reached %d: it is an older copy", last, self._position)
            self._position = last
        self.reached(last)
