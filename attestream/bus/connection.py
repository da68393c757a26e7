"""A connection to the bus that is never given up, and what services do over it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus import durable, tracing
from attestream.bus.durable import Ack
from attestream.bus.link import Callbacks, Link
from attestream.bus.replies import Replies
from attestream.bus.serving import Authorised, Endpoint
from attestream.bus.settings import BusSettings
from attestream.bus.trust import Trust
from attestream.clock import unix_ms
from attestream.errors import AttestreamError, BusError, MalformedError, RefusedError, TimedOutError, TooLargeError
from schemas import subjects
from schemas.accounts import GUESTS
from schemas.base import Decoder, M, Message, SchemaError, encode
from schemas.enrolment import Refused
from schemas.roles import Role
from schemas.trust import place_of_answer

__all__ = ["Ack", "Bus", "BusSettings", "Callback", "connect"]

_LOG: Final = logging.getLogger(__name__)
_CLOSE_S: Final = 5.0

Callback = Callable[[], Awaitable[None]]
R = TypeVar("R", bound=Message)


async def connect(settings: BusSettings) -> Bus:
    """Return a connected bus.

    :raises ConfigError: the settings contradict each other, or a file that they name can not be used.
    :raises ExpiredError: the credentials hold no more, or not yet.
    :raises ForbiddenError: the servers refuse the credentials, or ask for some and there are none.
    :raises BusError: no server could be reached within ``settings.connect_timeout_s``, or none can be trusted.
    """
    bus = Bus(settings)
    await bus.open()
    return bus


class Bus:
    """One connection, for as long as the process lives: it reconnects for ever.

    Should the client be closed from the other side all the same (a revoked identity), the ``on_closed`` callbacks run and
    every later call raises :class:`BusError`; a service then ends, so that its supervisor starts it anew.
    """

    def __init__(self, settings: BusSettings) -> None:
        """Prepare a connection; :func:`connect` makes it and tells what is raised."""
        self.settings = settings
        self._link = Link(settings)
        self.nc = self._link.client
        """The raw client, for hot paths."""
        self.holder = self._link.holder
        """Who this process is on the bus; ``None`` without credentials."""
        self.violations = self._link.violations
        """What the server refuses to these credentials."""
        self.replies = Replies(self.nc, self.violations)
        self.trust = Trust.unsigned()
        """Signs and checks what passes here; a :class:`Trust` that was started takes this one's place."""
        self.dropped = 0
        """Messages of core subscriptions that were thrown away because their callback was too slow."""
        self.reconnects = 0
        self.guest = self.holder is not None and self.holder.role in GUESTS
        """Whether this identity lives outside the account of the streams (:mod:`schemas.accounts`)."""
        self._connected = asyncio.Event()
        self._closing = True
        """Whether an end of the connection is no news: before it is open, and once :meth:`close` was called."""
        self._on_reconnect: list[Callback] = []
        self._on_closed: list[Callback] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._endpoints: list[Endpoint] = []

    async def open(self) -> None:
        """Connect; called once, by :func:`connect`, which tells what is raised."""
        callbacks = Callbacks(self._error, self._disconnected, self._reconnected, self._closed)
        await self._link.open(callbacks, self.replies.start)
        self._closing = False
        self._connected.set()

    async def connected(self, timeout_s: float) -> None:
        """Wait until the connection is up.

        :raises TimeoutError: it stays down for ``timeout_s`` seconds.
        :raises ConnectionClosedError: it is closed for good.
        """
        if not self._connected.is_set():
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._connected.wait()
        if self.nc.is_closed:
            raise nats.errors.ConnectionClosedError

    async def publish(
        self, subject: str, message: Message, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish ``message`` without any promise that it arrives.

        :raises TooLargeError: the message is larger than the server takes.
        :raises BusError: the connection is closed, or is down and its buffer full.
        """
        data = encode(message)
        try:
            await self.nc.publish(subject, data, reply=reply, headers=self.headers(headers))
        except nats.errors.MaxPayloadError as error:
            raise TooLargeError(f"a message of {len(data)} bytes for {subject}") from error
        except nats.errors.Error as error:
            raise BusError(f"{subject} could not be published: {error}") from error

    async def publish_durable(
        self,
        subject: str,
        message: Message | bytes,
        *,
        message_id: str,
        headers: dict[str, str] | None = None,
        ttl_s: int | None = None,
        guard: tuple[str, int] | None = None,
        sign: bool = False,
        patient: bool = False,
        timeout_s: float = 10.0,
    ) -> Ack:
        """Store ``message`` in the stream that holds ``subject``, once for each ``message_id``, and return the receipt.

        ``ttl_s`` ends the message's life after whole seconds, 1 or more. ``guard`` is a subject of the same stream and the
        last sequence that it must have for the message to be taken (0: none). ``sign``: with the signature of this process.
        ``patient``: nobody waits for the receipt (:attr:`attestream.bus.settings.BusSettings.gather_s`).

        :raises FencedError: the guard's subject has another last sequence.
        :raises ForbiddenError: the credentials do not allow it.
        :raises TooLargeError: the message is larger than the server takes.
        :raises BusError: it could not be stored within ``timeout_s`` seconds, or is refused for good.
        """
        raw = isinstance(message, bytes)
        extended = dict(headers or {}) if raw else self.headers(headers)
        extended[subjects.HEADER_MESSAGE_ID] = message_id
        if ttl_s is not None:
            extended[subjects.HEADER_TTL] = str(ttl_s)
        if guard is not None:
            extended[subjects.HEADER_EXPECTED_SEQUENCE] = str(guard[1])
            if guard[0] != subject:
                extended[subjects.HEADER_EXPECTED_SUBJECT] = guard[0]
        data = message if isinstance(message, bytes) else encode(message)
        if sign:
            extended |= self.trust.sign(subject, data)
        publication = durable.Publication(subject, data, extended, message_id, guard, patient)
        return await durable.publish(self, publication, timeout_s)

    async def request(
        self,
        subject: str,
        message: Message,
        kind: type[R],
        *,
        timeout_s: float = 5.0,
        headers: dict[str, str] | None = None,
        sign: bool = False,
        signed_by: Collection[Role] = (),
    ) -> R:
        """Return the answer to ``message``.

        ``sign``: the question bears this process's signature. ``signed_by``: the answer, a refusal too, must bear that of
        one of these roles, made for this question.

        :raises TimedOutError: nobody listens, or no answer came within ``timeout_s`` seconds.
        :raises ForbiddenError: the credentials do not allow to ask this.
        :raises RefusedError: the answer is a refusal; where its code is that of another of our errors, that one is raised.
        :raises SignatureError: the answer is not signed as it must be.
        :raises MalformedError: the answer is of another kind.
        :raises BusError: the connection is closed.
        """
        data = encode(message)
        extended = self.headers(headers)
        if sign:
            extended |= self.trust.sign(subject, data)
        if signed_by:
            # The real inbox has another name where the answer comes from, if that is another account.
            place = place_of_answer(self.nc.new_inbox(), secrets.token_urlsafe(16), subject, data)
            extended[subjects.HEADER_REPLY_TO] = place
        try:
            reply = await self.replies.ask(subject, data, extended, timeout_s)
        except nats.errors.NoRespondersError as error:
            raise TimedOutError(f"nobody answers on {subject}") from error
        except TimeoutError as error:
            raise TimedOutError(f"no answer on {subject} within {timeout_s:g} s") from error
        except nats.errors.MaxPayloadError as error:
            raise TooLargeError(f"the request for {subject} is too large") from error
        except nats.errors.Error as error:
            raise BusError(f"{subject} could not be asked: {error}") from error
        if signed_by:
            await self.trust.author(place, reply.data, reply.headers, unix_ms(), signed_by)
        try:
            answer: R | Refused = _answer_decoder(kind).decode(reply.data)
        except SchemaError as error:
            raise MalformedError(f"the answer on {subject} can not be read: {error}") from error
        if isinstance(answer, Refused):
            raise _refusal_error(answer)
        return answer

    async def serve(
        self,
        subject: str,
        queue: str,
        kind: type[M],
        handler: Callable[[M], Awaitable[Message]] | Authorised[M],
        *,
        concurrency: int = 64,
        waiting: int = 10_000,
        signed: bool = False,
        authorise: Collection[Role] = (),
        gate: Callable[[Msg], bool] | None = None,
    ) -> Endpoint:
        """Answer requests of ``kind`` on ``subject`` in queue group ``queue``, until :meth:`close` or the endpoint's stop.

        What the handler raises becomes a refusal; the text of unexpected errors stays in the log. ``signed``: answers bear
        the signature of this process. ``authorise``: requests must be signed by one of these roles, a moment ago, and come
        once; the handler is then called with the request and its author. ``gate`` is asked first, before a request waits for
        its turn, and says whether it is dealt with at all; what it raises is answered.
        """
        endpoint = Endpoint(
            self, subject, kind, handler, concurrency, waiting=waiting, signed=signed, authorise=authorise, gate=gate
        )
        await endpoint.start(queue)
        self._endpoints.append(endpoint)
        return endpoint

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = "") -> Subscription:
        """Hear core messages on ``subject``; ``callback`` is awaited for one after another and must be quick.

        :raises ForbiddenError: the credentials do not allow it.
        :raises BusError: the connection is closed.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self.violations.watch("subscription", subject, refused):
            try:
                subscription = await self.nc.subscribe(subject, queue=queue, cb=callback)
                if self.nc.is_connected:
                    # A refusal comes before the answer to this. The client's own waiting can swallow a cancellation (Python
                    # issue 86296), and an answer to one that was cancelled ends its reading.
                    await asyncio.shield(self.nc.flush())
            except TimeoutError:
                _LOG.warning("whether the bus takes the subscription to %s is not known yet", subject)
            except nats.errors.Error as error:
                raise BusError(f"{subject} could not be subscribed: {error}") from error
        if refused.done():
            await subscription.unsubscribe()
            refused.result()
        return subscription

    def headers(self, headers: dict[str, str] | None = None) -> dict[str, str]:
        """Return ``headers`` with the content type of our messages and the active trace context."""
        extended = {subjects.HEADER_CONTENT_TYPE: subjects.CONTENT_TYPE}
        if headers:
            extended.update(headers)
        tracing.inject(extended)
        return extended

    def on_reconnect(self, callback: Callback) -> Callable[[], None]:
        """Run ``callback`` after each reconnect; return a function that ends this."""
        self._on_reconnect.append(callback)
        return functools.partial(_discard, self._on_reconnect, callback)

    def on_closed(self, callback: Callback) -> Callable[[], None]:
        """Run ``callback`` when the client was closed and not by us; return a function that ends this."""
        self._on_closed.append(callback)
        return functools.partial(_discard, self._on_closed, callback)

    async def close(self) -> None:
        """Stop serving, let running handlers end, send what is buffered, and disconnect."""
        self._closing = True
        await self.trust.stop()
        for endpoint in self._endpoints:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(endpoint.stop(), _CLOSE_S)
        if self.nc.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await self.nc.flush(int(_CLOSE_S))
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await asyncio.wait_for(self.nc.close(), _CLOSE_S)
        for task in self._tasks:
            task.cancel()

    async def _error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                _LOG.warning("%d messages dropped so far: a subscription of %s is too slow", self.dropped, error.subject)
        elif isinstance(error, nats.errors.Error | OSError):
            if self.violations.take(error):
                return
            _LOG.info("bus: %s", str(error) or type(error).__name__)
        else:
            _LOG.error("a subscription's callback failed", exc_info=error)

    async def _disconnected(self) -> None:
        self._connected.clear()
        self.replies.interrupt()
        if not self._closing:
            _LOG.warning("the bus is gone; reconnecting")

    async def _reconnected(self) -> None:
        self.reconnects += 1
        self._link.came_back()
        self._connected.set()
        _LOG.info("reconnected to the bus")
        for callback in list(self._on_reconnect):
            self._spawn(callback)

    async def _closed(self) -> None:
        # Whoever waits for the connection shall learn that it does not come.
        self._connected.set()
        if self._closing:
            return
        _LOG.error("the bus has closed the connection for good: %s", self.nc.last_error)
        for callback in list(self._on_closed):
            self._spawn(callback)

    def _spawn(self, callback: Callback) -> None:
        async def run() -> None:
            await callback()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a callback of the connection failed", exc_info=error)


def _discard(callbacks: list[Callback], callback: Callback) -> None:
    with contextlib.suppress(ValueError):
        callbacks.remove(callback)


@functools.lru_cache(maxsize=256)
def _answer_decoder(kind: Any) -> Decoder[Any]:
    return Decoder(kind | Refused)


def _refusal_error(refused: Refused) -> AttestreamError:
    """Return the error whose code the refusal carries, or a plain :class:`RefusedError`."""
    pending: list[type[AttestreamError]] = [AttestreamError]
    while pending:
        kind = pending.pop()
        if kind.code == refused.code and kind.__module__ == AttestreamError.__module__:
            return kind(refused.message, remedy=refused.remedy)
        pending.extend(kind.__subclasses__())
    return RefusedError(f"{refused.message} ({refused.code})", remedy=refused.remedy)
