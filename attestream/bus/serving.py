"""Answering requests: a queue group, bounded concurrency, and errors that say only what a stranger may know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus import tracing
from attestream.errors import AttestreamError, MalformedError
from schemas.base import Decoder, Message, SchemaError
from schemas.enrolment import Refused

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_LOG: Final = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[Message]]


def refusal(error: Exception) -> Refused:
    """Return what a caller is told of ``error``: the text of our own errors, nothing of any other."""
    if isinstance(error, AttestreamError):
        return Refused(code=error.code, message=error.message, remedy=error.hint)
    if isinstance(error, SchemaError):
        return Refused(code=MalformedError.code, message=str(error), remedy=MalformedError.remedy)
    return Refused(code=AttestreamError.code, message="the request failed", remedy=AttestreamError.remedy)


class Endpoint:
    """One subject that is served. Handlers run side by side, at most ``concurrency`` of them; more requests wait."""

    def __init__(self, bus: Bus, subject: str, kind: Any, handler: Handler, concurrency: int) -> None:
        self._bus = bus
        self._subject = subject
        self._decoder: Decoder[Any] = Decoder(kind)
        self._handler = handler
        self._free = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self, queue: str) -> None:
        """Join queue group ``queue``."""
        self._subscription = await self._bus.nc.subscribe(self._subject, queue=queue, cb=self._take)
        # Whoever is told that the service is ready must find it.
        await self._bus.nc.flush()

    async def stop(self) -> None:
        """Leave the queue group and let the running handlers end."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._bus.nc.is_closed:
            try:
                if not self._bus.nc.is_connected:
                    await subscription.unsubscribe()
                else:
                    await subscription.drain()  # type: ignore[no-untyped-call]  # the library leaves it without annotations
            except (nats.errors.Error, OSError):
                _LOG.debug("%s is left without a drained subscription", self._subject, exc_info=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _take(self, message: Msg) -> None:
        await self._free.acquire()
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s: the answer could not be sent", self._subject, exc_info=error)

    async def _answer(self, message: Msg) -> None:
        reply: Message
        with tracing.extracted(message.headers):
            try:
                reply = await self._handler(self._decoder.decode(message.data))
            except Exception as error:  # noqa: BLE001 - the caller must get an answer whatever went wrong; it is logged here
                reply = refusal(error)
                if isinstance(error, AttestreamError | SchemaError):
                    _LOG.info("%s refused: %s", self._subject, error)
                else:
                    _LOG.exception("%s failed", self._subject)
        if message.reply:
            await self._bus.publish(message.reply, reply)
