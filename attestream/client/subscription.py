"""Async iterators over streams that outlive restarts of the server and of the subscriber.

Where the bus has identities, nobody but services has consumers: there a subscription reads by itself
(:mod:`attestream.client.tail`), and a durable one keeps its place in a file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import msgspec

from attestream.client.deliveries import Acknowledgeable
from attestream.errors import AttestreamError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.bus.consume import Consumer, Deferred
    from attestream.bus.delivery import Delivery
    from attestream.client.tail import Tail

WINDOW: Final = 64
"""Most messages that are delivered and not yet acknowledged."""

ACK_WAIT_S: Final = 60.0
"""Seconds after which an unacknowledged message comes again."""

_log = logging.getLogger("attestream.client")

A = TypeVar("A", bound=Acknowledgeable)


class Rejected(msgspec.Struct, frozen=True):
    """A message that was not yielded because it can not be believed or read."""

    subject: str
    sequence: int
    error: AttestreamError


OnRejected = Callable[[Rejected], None]


def log_rejected(rejected: Rejected) -> None:
    """Write a rejected message to the log ``attestream.client``: what subscriptions do by default."""
    _log.error("message %d on %s is rejected: %s", rejected.sequence, rejected.subject, rejected.error.message)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription reads."""

    stream: str
    filters: list[str]
    durable: str = ""
    """Name under which the place in the stream is kept; empty: the place is forgotten with the subscription."""
    from_start: bool = True
    """Whether a new consumer begins with what is stored, or with what comes next."""
    since: int = 0
    """Unix time in milliseconds from which a new consumer begins; 0: see ``from_start``."""
    live: list[str] = []
    """Subjects under which new messages are heard by those who have no consumer."""
    places: Path | None = None
    """Directory for the places of those who have no consumer; none: the user's own."""


class Subscription(Generic[A]):
    """Yields messages in the stream's order, for ever, across restarts of the server.

    With a durable name each message is delivered until it was acknowledged: it may come twice, never not at all, and one
    that fails ``read`` goes to the stream DEAD, where there is a consumer, or is passed over. Without, nothing needs to be
    acknowledged and such a message is skipped. Either way it is handed to ``on_rejected`` and never yielded.
    """

    def __init__(
        self, bus: Bus, source: Source, read: Callable[[Delivery], Awaitable[A]], on_rejected: OnRejected = log_rejected
    ) -> None:
        self._bus = bus
        self._source = source
        self._read = read
        self._on_rejected = on_rejected
        self._queue: asyncio.Queue[A | None] = asyncio.Queue()
        self._queued: set[int] = set()
        self._consumer: Consumer | Tail | None = None
        self._stopped = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> A:
        await self.start()
        item = await self._queue.get() if not self._stopped else None
        if item is None:
            raise StopAsyncIteration
        self._queued.discard(item.sequence)
        if not self._source.durable:
            await item.settle()
        return item

    async def start(self) -> None:
        """Begin to receive; iterating does so by itself. After it, nothing that is published is missed.

        :raises BusError: when the bus does not answer, or has no such stream.
        :raises ConfigError: when the place of a durable name can not be kept, or another process has it.
        """
        if self._consumer is not None or self._stopped:
            return
        self._consumer = self._tail() if self._bus.guest else self._durable_consumer()
        await self._consumer.start()

    def _durable_consumer(self) -> Consumer:
        from attestream.bus.consume import Consumer

        return Consumer(
            self._bus,
            self._source.stream,
            self._source.durable,
            self._take,
            filters=self._source.filters,
            max_ack_pending=WINDOW,
            ack_wait_s=ACK_WAIT_S,
            start=self._source.since or ("all" if self._source.from_start else "new"),
        )

    def _tail(self) -> Tail:
        from attestream.client.places import Place, default_directory
        from attestream.client.tail import Tail

        source = self._source
        place = None
        if source.durable:
            place = Place((source.places or default_directory()) / f"{source.stream}.{source.durable}")
        return Tail(
            self._bus,
            source.stream,
            self._take,
            filters=source.filters,
            live=source.live or source.filters,
            start=source.since or ("all" if source.from_start else "new"),
            window=WINDOW,
            ack_wait_s=ACK_WAIT_S,
            place=place,
        )

    async def stop(self) -> None:
        """End the iteration. What was delivered and not yielded comes again at once under a durable name."""
        if self._stopped:
            return
        self._stopped = True
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is not None:
                await item.retry(0)
        self._queue.put_nowait(None)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _take(self, delivery: Delivery) -> Deferred | None:
        from attestream.bus.consume import DEFERRED

        try:
            item = await self._read(delivery)
        except AttestreamError as error:
            self._on_rejected(Rejected(subject=delivery.subject, sequence=delivery.sequence, error=error))
            if self._source.durable:
                raise
            return None
        if self._stopped:
            await item.retry(0)
        elif item.sequence not in self._queued:  # repeated by the server while it waits here for a slow reader
            self._queued.add(item.sequence)
            self._queue.put_nowait(item)
        return DEFERRED
