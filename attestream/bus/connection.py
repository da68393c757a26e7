"""A connection to the bus that is never given up, and what services do over it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus import durable, tracing
from attestream.bus.durable import Ack
from attestream.bus.replies import Replies
from attestream.bus.serving import Authorised, Endpoint
from attestream.bus.transport import BoundedClient, reconnect_handler
from attestream.bus.trust import Trust
from attestream.clock import unix_ms
from attestream.errors import AttestreamError, BusError, MalformedError, RefusedError, TimedOutError, TooLargeError
from schemas import subjects
from schemas.base import Decoder, M, Message, SchemaError, encode
from schemas.enrolment import Refused
from schemas.roles import Role

_LOG: Final = logging.getLogger(__name__)
_CLOSE_S: Final = 5.0

Callback = Callable[[], Awaitable[None]]
R = TypeVar("R", bound=Message)


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bus is and how patient its clients are. Times are in seconds."""

    urls: list[str] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    name: str = ""
    """Shown in the server's list of connections."""
    connect_timeout_s: float = 5.0
    reconnect_spread_s: float = 1.0
    """Width of the random delay before an attempt to come back; a large fleet's agents want a minute."""
    ping_interval_s: float = 10.0
    """A server that leaves two pings unanswered is left."""
    pending_bytes: int = 8 << 20
    """What may wait for the server while the connection is down."""


async def connect(settings: BusSettings, *, tls: ssl.SSLContext | None = None) -> Bus:
    """Return a connected bus.

    :raises BusError: no server could be reached within ``settings.connect_timeout_s``.
    """
    bus = Bus(settings)
    await bus.open(tls)
    return bus


class Bus:
    """One connection, for as long as the process lives: it reconnects for ever.

    Should the client be closed from the other side all the same (a revoked identity), the ``on_closed`` callbacks run and
    every later call raises :class:`BusError`; a service then ends, so that its supervisor starts it anew.
    """

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self.nc: Client = BoundedClient()
        """The raw client, for hot paths."""
        self.replies = Replies(self.nc)
        self.trust = Trust.unsigned()
        """Signs and checks what passes here; a :class:`Trust` that was started takes this one's place."""
        self.dropped = 0
        """Messages of core subscriptions that were thrown away because their callback was too slow."""
        self.reconnects = 0
        self.guest = False
        """Whether this identity lives outside the account of the streams (:mod:`schemas.accounts`)."""
        self._connected = asyncio.Event()
        self._closing = False
        self._server = ""
        self._on_reconnect: list[Callback] = []
        self._on_closed: list[Callback] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._endpoints: list[Endpoint] = []

    async def open(self, tls: ssl.SSLContext | None = None) -> None:
        """Connect; called once, by :func:`connect`.

        :raises BusError: no server could be reached in time.
        """
        settings = self.settings
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await self.nc.connect(
                    servers=list(settings.urls),
                    name=settings.name or None,
                    tls=tls,
                    connect_timeout=max(1, int(settings.connect_timeout_s)),
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # annotated as int, used as seconds
                    ping_interval=settings.ping_interval_s,  # type: ignore[arg-type]  # the same
                    max_outstanding_pings=2,
                    pending_size=settings.pending_bytes,
                    error_cb=self._error,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    closed_cb=self._closed,
                    reconnect_to_server_handler=reconnect_handler(settings.reconnect_spread_s, lambda: self._server),
                )
                # A server that closes during the handshake makes connect() return all the same.
                if not self.nc.is_connected:
                    raise BusError("the server closed the connection during the handshake")
                await self.replies.start()
                await self.nc.flush()
        except (nats.errors.Error, TimeoutError, OSError, BusError) as error:
            last = self.nc.last_error
            self._closing = True
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await asyncio.wait_for(self.nc.close(), _CLOSE_S)
            where = ", ".join(settings.urls)
            raise BusError(f"{where} can not be reached: {last or str(error) or type(error).__name__}") from error
        self._note_server()
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
        timeout_s: float = 10.0,
    ) -> Ack:
        """Store ``message`` in the stream that holds ``subject``, once for each ``message_id``, and return the receipt.

        ``ttl_s`` ends the message's life after whole seconds, 1 or more. ``guard`` is a subject of the same stream and the
        last sequence that it must have for the message to be taken (0: none). ``sign``: with the signature of this process.

        :raises FencedError: the guard's subject has another last sequence.
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
        return await durable.publish(self, durable.Publication(subject, data, extended, message_id, guard), timeout_s)

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
            extended[subjects.HEADER_REPLY_TO] = place = self.nc.new_inbox()
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
        signed: bool = False,
        authorise: Collection[Role] = (),
    ) -> Endpoint:
        """Answer requests of ``kind`` on ``subject`` in queue group ``queue``, until :meth:`close` or the endpoint's stop.

        What the handler raises becomes a refusal; the text of unexpected errors stays in the log. ``signed``: answers bear
        the signature of this process. ``authorise``: requests must be signed by one of these roles, a moment ago, and come
        once; the handler is then called with the request and its author.
        """
        endpoint = Endpoint(self, subject, kind, handler, concurrency, signed=signed, authorise=authorise)
        await endpoint.start(queue)
        self._endpoints.append(endpoint)
        return endpoint

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = "") -> Subscription:
        """Hear core messages on ``subject``; ``callback`` is awaited for one after another and must be quick.

        :raises BusError: the connection is closed.
        """
        try:
            return await self.nc.subscribe(subject, queue=queue, cb=callback)
        except nats.errors.Error as error:
            raise BusError(f"{subject} could not be subscribed: {error}") from error

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
        self._note_server()
        self._connected.set()
        _LOG.info("reconnected to the bus")
        for callback in list(self._on_reconnect):
            self._spawn(callback)

    def _note_server(self) -> None:
        url = self.nc.connected_url
        self._server = url.netloc if url is not None else ""

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
