"""Following a stream without a consumer: by direct gets, with live messages as the sign that there is something to read.

This needs no right to create or change anything on the bus. The place is the reader's own: in memory, or in a file
(:class:`attestream.client.places.Place`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus.delivery import Delivery
from attestream.bus.stored import Stored, get_batch, last_sequence
from attestream.errors import AttestreamError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.client.places import Place

POLL_S: Final = 1.0
"""Seconds between two looks when nothing was heard: what the server writes itself, such as lapses, is not announced."""

_EAGER_S: Final = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Pauses before the looks after a live message, which may come before the stream has it."""
_RETRY_S: Final = 1.0

_log = logging.getLogger("attestream.client")

Handler = Callable[[Delivery], Awaitable[object]]
"""Settles the delivery itself, unless it returns ``None``."""


class TailDelivery(Delivery):
    """A stored message; settled in the tail's own memory."""

    __slots__ = ("_tail",)

    def __init__(self, tail: Tail, stored: Stored, deliveries: int) -> None:
        self._tail = tail
        self.subject = stored.subject
        self.data = stored.data
        self.headers = stored.headers
        self.sequence = stored.sequence
        self.at = stored.at
        self.deliveries = deliveries

    async def ack(self) -> None:
        """Settle it: it does not come again."""
        self._tail.settle(self.sequence)

    async def retry(self, delay_s: float = 0.0) -> None:
        """Have it come again after ``delay_s`` seconds."""
        self._tail.repeat(self, delay_s)

    async def working(self) -> None:
        """Start the time anew after which it comes again by itself."""
        self._tail.repeat(self, self._tail.ack_wait_s)

    async def terminate(self) -> None:
        """Settle it as one that can not be processed."""
        self._tail.settle(self.sequence)


class Tail:
    """Calls ``handler`` with the messages of ``stream`` under one of ``filters``, at most ``window`` unsettled at a time.

    It begins behind ``place``; without one, or with one that is new, with the first message (``start`` "all"), with what
    comes next ("new"), or with a Unix time in milliseconds. ``live`` are the subjects under which new messages are heard.
    What is not settled comes again after ``ack_wait_s``.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        handler: Handler,
        *,
        filters: list[str],
        live: list[str],
        start: str | int,
        window: int,
        ack_wait_s: float,
        place: Place | None = None,
    ) -> None:
        self.ack_wait_s = ack_wait_s
        self._bus = bus
        self._stream = stream
        self._handler = handler
        self._filters = [one.split(".") for one in filters]
        self._pattern = filters[0] if len(filters) == 1 else ">"
        self._live = live
        self._start = start
        self._window = window
        self._place = place
        self._next: dict[str, Any] = {}
        self._reached = 0
        self._open: dict[int, tuple[TailDelivery, asyncio.TimerHandle]] = {}
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._subscriptions: list[Subscription] = []
        self._forget: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._repeats: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Find the place and begin to read. After it, nothing that is published is missed.

        :raises BusError: the bus does not answer, or has no such stream.
        """
        for subject in self._live:
            self._subscriptions.append(await self._bus.subscribe(subject, self._hear))
        await self._bus.nc.flush()
        await self._find()
        self._forget = self._bus.on_reconnect(self._returned)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End. What is not settled comes again next time under the same place."""
        if self._forget is not None:
            self._forget()
        for task in (self._task, *self._repeats):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for _, timer in self._open.values():
            timer.cancel()
        self._open.clear()
        if not self._bus.nc.is_closed:
            for subscription in self._subscriptions:
                await subscription.unsubscribe()
        if self._place is not None:
            self._place.close()

    def settle(self, sequence: int) -> None:
        """Note that the message with ``sequence`` has been dealt with."""
        found = self._open.pop(sequence, None)
        if found is None:
            return
        found[1].cancel()
        self._room.set()
        self._move()

    def repeat(self, delivery: TailDelivery, delay_s: float) -> None:
        """Hand ``delivery`` out again after ``delay_s`` seconds, unless it is settled until then."""
        found = self._open.get(delivery.sequence)
        if found is not None:
            found[1].cancel()
            self._open[delivery.sequence] = (found[0], self._timer(delivery.sequence, delay_s))

    def _move(self) -> None:
        reached = min(self._open, default=self._reached + 1) - 1
        if self._place is not None and reached != self._place.sequence:
            self._place.move(reached)

    def _timer(self, sequence: int, delay_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, delay_s), self._due, sequence)

    def _due(self, sequence: int) -> None:
        delivery = self._open[sequence][0]
        again = asyncio.create_task(self._hand(delivery, delivery.deliveries + 1))
        self._repeats.add(again)
        again.add_done_callback(self._repeats.discard)

    async def _hear(self, _message: Msg) -> None:
        self._news.set()

    async def _returned(self) -> None:
        self._news.set()

    async def _find(self) -> None:
        known = self._place.sequence if self._place is not None else None
        if known is not None and known > await last_sequence(self._bus, self._stream):
            _log.warning("stream %s has begun anew; reading all of it", self._stream)
            known = 0
        if known is None and isinstance(self._start, int):
            moment = datetime.fromtimestamp(self._start / 1000, UTC).isoformat()
            self._next = {"start_time": moment}
            return
        if known is None:
            known = await last_sequence(self._bus, self._stream) if self._start == "new" else 0
        self._reached = known
        self._next = {"seq": known + 1}

    async def _follow(self) -> None:
        while True:
            pauses = _EAGER_S if self._news.is_set() else _EAGER_S[:1]
            self._news.clear()
            for pause_s in pauses:
                await asyncio.sleep(pause_s)
                if await self._catch_up():
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._news.wait()

    async def _catch_up(self) -> bool:
        """Read up to the end of the stream; return whether there was anything new."""
        found = False
        while True:
            while len(self._open) >= self._window:
                self._room.clear()
                await self._room.wait()
            request = {**self._next, "next_by_subj": self._pattern, "batch": self._window - len(self._open)}
            try:
                batch = await get_batch(self._bus, self._stream, request)
            except AttestreamError as error:
                _log.warning("stream %s can not be read for now: %s", self._stream, error.message)
                return found
            if not batch.messages:
                return found
            found = True
            for stored in batch.messages:
                await self._take(stored)

    async def _take(self, stored: Stored) -> None:
        self._reached = stored.sequence
        self._next = {"seq": stored.sequence + 1}
        if any(_matches(one, stored.subject.split(".")) for one in self._filters):
            await self._hand(TailDelivery(self, stored, 1), 1)
        elif not self._open:
            self._move()

    async def _hand(self, delivery: TailDelivery, deliveries: int) -> None:
        delivery.deliveries = deliveries
        self._open[delivery.sequence] = (delivery, self._timer(delivery.sequence, self.ack_wait_s))
        try:
            if await self._handler(delivery) is None:
                self.settle(delivery.sequence)
        except AttestreamError as error:
            if error.permanent:
                self.settle(delivery.sequence)
            else:
                self.repeat(delivery, _RETRY_S)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    for index, wanted in enumerate(pattern):
        if wanted == ">":
            return len(subject) > index
        if index >= len(subject) or wanted not in ("*", subject[index]):
            return False
    return len(subject) == len(pattern)
