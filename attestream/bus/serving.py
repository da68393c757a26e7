"""Answering requests: a queue group, bounded concurrency, and errors that say only what a stranger may know."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus import tracing
from attestream.clock import unix_ms
from attestream.errors import AttestreamError, BusyError, ExpiredError, MalformedError, SignatureError
from attestream.trust.keyring import Author
from schemas import subjects
from schemas.base import Decoder, Message, SchemaError, encode
from schemas.enrolment import Refused
from schemas.roles import Role
from schemas.trust import is_place_of_answer

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_LOG: Final = logging.getLogger(__name__)

REQUEST_LIFE_MS: Final = 60_000
"""Most milliseconds between the signature of a request and its coming: what is remembered so long can not come twice."""

Handler = Callable[..., Awaitable[Message]]
Question = TypeVar("Question", bound=Message, contravariant=True)


class Authorised(Protocol[Question]):
    """A handler that is told who asks."""

    def __call__(self, request: Question, author: Author, /) -> Awaitable[Message]:
        """Return the answer."""
        ...


def refusal(error: Exception) -> Refused:
    """Return what a caller is told of ``error``: the text of our own errors, nothing of any other."""
    if isinstance(error, AttestreamError):
        return Refused(code=error.code, message=error.message, remedy=error.hint)
    if isinstance(error, SchemaError):
        return Refused(code=MalformedError.code, message=str(error), remedy=MalformedError.remedy)
    return Refused(code=AttestreamError.code, message="the request failed", remedy=AttestreamError.remedy)


class Endpoint:
    """One subject that is served. Handlers run side by side, at most ``concurrency`` of them; ``waiting`` more requests
    wait, and still more are refused."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        kind: Any,
        handler: Handler,
        concurrency: int,
        *,
        waiting: int = 10_000,
        signed: bool = False,
        authorise: Collection[Role] = (),
        gate: Callable[[Msg], bool] | None = None,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._decoder: Decoder[Any] = Decoder(kind)
        self._handler = handler
        self._signed = signed
        self._authorise = authorise
        self._gate = gate
        self._passed_over = 0
        self._seen: OrderedDict[str, int] = OrderedDict()
        """Signatures of requests, with the time at which each came."""
        self._free = asyncio.Semaphore(concurrency)
        self._most = concurrency + waiting
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self, queue: str) -> None:
        """Join queue group ``queue``; at the end the server knows of it."""
        self._subscription = await self._bus.subscribe(self._subject, self._take, queue=queue)

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
        try:
            if self._gate is not None and not self._gate(message):
                # Without an answer: each would cost a signature, and is what a flood is sent for.
                self._passed_over += 1
                if self._passed_over & (self._passed_over - 1) == 0:
                    _LOG.warning("%d requests passed over so far: too many come on %s", self._passed_over, message.subject)
                return
        except AttestreamError as error:
            if message.reply:
                await self._send(message, refusal(error))
            return
        if len(self._tasks) >= self._most:
            if message.reply:
                await self._send(message, refusal(BusyError("too many requests wait for an answer")))
            return
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s: the answer could not be sent", self._subject, exc_info=error)

    async def _answer(self, message: Msg) -> None:
        reply: Message
        async with self._free:
            reply = await self._handle(message)
        if message.reply:
            await self._send(message, reply)

    async def _handle(self, message: Msg) -> Message:
        reply: Message
        with tracing.extracted(message.headers):
            try:
                authors = [await self._author(message)] if self._authorise else []
                reply = await self._handler(self._decoder.decode(message.data), *authors)
            except Exception as error:  # noqa: BLE001 - the caller must get an answer whatever went wrong; it is logged here
                reply = refusal(error)
                if isinstance(error, BusyError):
                    _LOG.debug("%s refused: %s", self._subject, error)
                elif isinstance(error, AttestreamError | SchemaError):
                    _LOG.info("%s refused: %s", self._subject, error)
                else:
                    _LOG.exception("%s failed", self._subject)
        return reply

    async def _send(self, message: Msg, reply: Message) -> None:
        await self._bus.publish(message.reply, reply, headers=self._signature(message, reply))

    def _signature(self, message: Msg, reply: Message) -> dict[str, str] | None:
        """Return the header that binds ``reply`` to the place that the question names for it. There is none for what is no
        inbox, or was made for another question."""
        place = (message.headers or {}).get(subjects.HEADER_REPLY_TO, "")
        if not self._signed or not subjects.INBOX.match(place):
            return None
        if not is_place_of_answer(place, message.subject, message.data):
            return None
        return self._bus.trust.sign(place, encode(reply))

    async def _author(self, message: Msg) -> Author:
        """Return who asks.

        :raises SignatureError: the request is not signed by a role that may ask, or comes late or again.
        """
        now = unix_ms()
        trust = self._bus.trust
        author = await trust.author(message.subject, message.data, message.headers, now, self._authorise)
        if not trust.checked:
            return author
        if abs(now - author.signed_at) > REQUEST_LIFE_MS:
            raise ExpiredError(f"the request was signed {(now - author.signed_at) / 1000:.0f} s ago", remedy="Ask again.")
        while self._seen and now - next(iter(self._seen.values())) > 2 * REQUEST_LIFE_MS:
            self._seen.popitem(last=False)
        signature = (message.headers or {})[subjects.HEADER_SIGNATURE]
        if signature in self._seen:
            raise SignatureError("the request was answered before", remedy="Ask again.")
        self._seen[signature] = now
        return author
