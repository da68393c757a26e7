"""Who owns a partition: a record that names a session, and the session itself, a key with a lifetime.

A worker renews one key, however many partitions it has. Its session is one start of it, or less: a session that has lapsed
is never begun again. A partition is free when nobody is named as its owner, or when the session that is named is over.

Two things keep a worker that was paused from writing over its successor: it stops by its own clock before its session can
have run out on the server, and its writes carry the fencing token of :class:`Fence`, which the successor has made stale.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from typing import Final, NamedTuple

from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.stored import last_message
from attestream.errors import FencedError
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import LeaseRecord, SessionRecord

MARGIN_S: Final = 0.25
"""How long before the server's end of a session its worker stops."""

_BUCKET: Final = topology.LEASES.name
_ID: Final = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)
_RECORD: Final = Decoder[LeaseRecord](LeaseRecord)


def boot_clock() -> float:
    """Return seconds since boot, suspend included: a machine that slept must find its session over."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Session:
    """What says that ``worker`` is alive, until it has missed to say so for ``lifetime_s`` seconds."""

    def __init__(self, bus: Bus, worker: str, lifetime_s: int) -> None:
        self.id = secrets.token_hex(16)
        """Never used before, nor again."""
        self.lost = False
        """Whether it is over for good: what was held under it may be others' by now."""
        self._bus = bus
        self._worker = worker
        self._lifetime = lifetime_s
        self._revision = 0
        self._valid_until = 0.0

    @property
    def valid(self) -> bool:
        """Whether this worker may still rely on it."""
        return boot_clock() < self._valid_until

    async def renew(self, now: int) -> None:
        """Begin it, or extend it. ``now`` is Unix time in milliseconds.

        :raises FencedError: it has lapsed.
        :raises BusError: the bus does not answer.
        """
        sent = boot_clock()
        record = encode(SessionRecord(worker=self._worker, at=now))
        try:
            self._revision = await keyvalue.put(
                self._bus,
                _BUCKET,
                _key(self.id),
                record,
                expected=self._revision,
                ttl_s=self._lifetime,
                timeout_s=self._lifetime,
            )
        except FencedError:
            self.lost, self._valid_until = True, 0.0
            raise
        self._valid_until = sent + self._lifetime - MARGIN_S


class Owner(NamedTuple):
    """What the bucket says about the owner of a partition."""

    worker: str
    session: str
    """Empty when the record can not be read: nobody owns the partition then."""
    revision: int
    alive: bool
    """Whether its session was there too. A session that is renewed at this very moment may be missed: :func:`is_over` is
    sure."""


async def owners(bus: Bus) -> dict[int, Owner]:
    """Return the owner of each partition that has one, dead or alive.

    :raises BusError: the bus does not answer.
    """
    found = await keyvalue.entries(bus, _BUCKET)
    known = {}
    for index in range(subjects.PARTITIONS):
        entry = found.get(str(index))
        if entry is None:
            continue
        try:
            record = _RECORD.decode(entry.value)
        except SchemaError:
            record = LeaseRecord(worker="", since=0)
        session = record.session if _ID.match(record.session) else ""
        known[index] = Owner(record.worker, session, entry.revision, _key(session) in found)
    return known


async def is_over(bus: Bus, session: str) -> bool:
    """Return whether ``session`` has lapsed, by the word of whoever would extend it.

    :raises BusError: the bus does not answer.
    """
    return await keyvalue.get(bus, _BUCKET, _key(session)) is None


async def disown(bus: Bus, partition: int, revision: int) -> None:
    """Delete the record of ``partition`` if it is at ``revision``.

    :raises BusError: the bus does not answer.
    """
    with contextlib.suppress(FencedError):
        await keyvalue.delete(bus, _BUCKET, str(partition), expected=revision)


class Lease:
    """The ownership of one partition under a session."""

    def __init__(self, bus: Bus, partition: int, worker: str, session: Session) -> None:
        self._bus = bus
        self._partition = partition
        self._worker = worker
        self._session = session
        self.revision = 0
        """Of its record; 0 while it is not held."""

    @property
    def valid(self) -> bool:
        """Whether this worker may still write."""
        return self.revision > 0 and self._session.valid

    @property
    def lost(self) -> bool:
        """Whether it can not become valid again."""
        return self.revision == 0 or self._session.lost

    async def acquire(self, now: int, replaces: int = 0) -> bool:
        """Try to take the partition in place of the record of revision ``replaces``, 0 for none.

        ``now`` is Unix time in milliseconds. It is not owned before :attr:`valid` says so: the session may be over by then.
        """
        record = encode(LeaseRecord(worker=self._worker, since=now, session=self._session.id))
        try:
            self.revision = await keyvalue.put(self._bus, _BUCKET, str(self._partition), record, expected=replaces)
        except FencedError:
            return False
        return True

    async def holds(self) -> bool:
        """Return whether the record is still its own, by the word of whoever would replace it.

        :raises BusError: the bus does not answer.
        """
        entry = await keyvalue.get(self._bus, _BUCKET, str(self._partition))
        return entry is not None and entry.revision == self.revision

    async def release(self) -> None:
        """Give the partition up, so that the next owner need not wait for the session to lapse."""
        if self.valid:
            revision, self.revision = self.revision, 0
            await disown(self._bus, self._partition, revision)


def _key(session: str) -> str:
    return f"{topology.KEY_SESSION}{session}"


class Fence:
    """The fencing token of a partition in EVENTS and RESULTS.

    Taking it publishes a marker; every later write names that marker's sequence as the last one it knows
    (``Nats-Expected-Last-Subject-Sequence``), so that the writes of whoever took it earlier are refused.
    """

    def __init__(self, bus: Bus, partition: int, worker: str) -> None:
        self._bus = bus
        self._worker = worker
        self._events = subjects.event_fence(partition)
        self._results = subjects.result_fence(partition)
        self.event_guard = (self._events, 0)
        self.result_guard = (self._results, 0)
        self.broken = False
        """Set when a write under it was refused: whoever still has the lease must take the fence anew."""

    @property
    def token(self) -> int:
        """The sequence of the marker in EVENTS: it only ever grows."""
        return self.event_guard[1]

    async def take(self, now: int) -> int:
        """Make every earlier token stale; return the one that was valid until now, 0 when there was none.

        :raises FencedError: when somebody else has taken it at the same time.
        """
        last = await last_message(self._bus, topology.EVENTS.name, self._events)
        before = last.sequence if last is not None else 0
        record = encode(LeaseRecord(worker=self._worker, since=now))
        stamp = f"{self._worker}:{time.monotonic_ns()}"
        guards = (("event_guard", (self._events, before)), ("result_guard", None))
        for (name, guard), subject in zip(guards, (self._events, self._results), strict=True):
            ack = await self._bus.publish_durable(subject, record, message_id=f"{subject}:{stamp}", guard=guard)
            setattr(self, name, (subject, ack.sequence))
        return before
