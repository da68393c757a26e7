"""The lease of a partition: a key with a lifetime, held by compare-and-set.

Two things keep a worker that was paused from writing over its successor: it stops by its own clock before the lease can
have run out on the server, and its writes carry the fencing token of :class:`Fence`, which the successor has made stale.
"""

from __future__ import annotations

import time

from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.stored import last_message
from attestream.errors import FencedError
from schemas import subjects, topology
from schemas.base import encode
from schemas.commands import LeaseRecord

MARGIN_S = 0.25
"""How long before the server's end of a lease its holder stops."""


def boot_clock() -> float:
    """Return seconds since boot, suspend included: a machine that slept must find its leases over."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one partition in the bucket ``leases``."""

    def __init__(self, bus: Bus, partition: int, worker: str, lifetime_s: int) -> None:
        self._bus = bus
        self._key = str(partition)
        self._worker = worker
        self._lifetime = lifetime_s
        self._revision = 0
        self._valid_until = 0.0

    @property
    def valid(self) -> bool:
        """Whether this worker may still write."""
        return boot_clock() < self._valid_until

    async def acquire(self, now: int) -> bool:
        """Try to take the lease when nobody has it. ``now`` is Unix time in milliseconds."""
        return await self._write(0, now)

    async def renew(self, now: int) -> bool:
        """Extend the lease; ``False`` when it is lost."""
        return self._revision > 0 and await self._write(self._revision, now)

    async def release(self) -> None:
        """Give the lease up, so that the next owner need not wait for it to lapse."""
        if self._revision and self.valid:
            revision, self._revision, self._valid_until = self._revision, 0, 0.0
            try:
                await keyvalue.delete(self._bus, topology.LEASES.name, self._key, expected=revision)
            except FencedError:
                return

    async def _write(self, expected: int, now: int) -> bool:
        sent = boot_clock()
        record = encode(LeaseRecord(worker=self._worker, since=now))
        try:
            self._revision = await keyvalue.put(
                self._bus,
                topology.LEASES.name,
                self._key,
                record,
                expected=expected,
                ttl_s=self._lifetime,
                timeout_s=self._lifetime,
            )
        except FencedError:
            self._revision, self._valid_until = 0, 0.0
            return False
        self._valid_until = sent + self._lifetime - MARGIN_S
        return True


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
