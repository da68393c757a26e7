"""The NATS client with bounded waits: how it reaches its servers, comes back to them, and lets go of dead ones."""

from __future__ import annotations

import asyncio
import importlib
import random
import re
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client, Server, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, Transport

from attestream.bus.direct import Beat, DirectParser, Take
from attestream.errors import ConfigError

CLOSE_TIMEOUT_S: Final = 1.0
"""How long a dead connection may take to close. TLS would wait 30 s for a peer that has stalled."""

UNACKNOWLEDGED_S: Final = 5.0
"""How long what was sent may go unacknowledged by the server's host before the connection is given up. TCP would try for a
quarter of an hour, at times that lie further apart each time, and so come back late to a host that is there again."""

READ_BYTES: Final = 256 << 10
"""Most that is taken from a connection at a time. The library asks for an eighth, which is less than may gather."""

HURRIED_S: Final = 0.004
"""How long messages gather at most while somebody waits for an answer."""

_MAX_SPREAD_FACTOR: Final = 4
_MESSAGE: Final = b"MSG "
"""In the line before each message, with and without headers."""
_FREE_READS: Final = 16
_HEADERS: Final = re.compile(rb"NATS/1\.0(?: [ -~]*)?\r\n(?:[!-9;-~]+:[^\r\n]*\r\n)*\r\n\Z")
"""Headers as clients of good will and servers write them: a status perhaps, and lines of a name and a value."""
_HEADER: Final = re.compile(rb"([!-9;-~]+):([^\r\n]*)\Z")


class Pace:
    """Learns whether it pays to let messages gather before a read.

    Waking up for a single message costs about as much CPU as handling it. When gathering brought several, it goes on;
    when it brought one, as when questions are asked one by one, the next reads do not wait.
    """

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = _FREE_READS

    def gather(self) -> bool:
        """Return whether the next read should wait a moment; :meth:`gathered` then must be told what it brought."""
        if self._free:
            self._free -= 1
            return False
        return True

    def gathered(self, data: bytes) -> None:
        """Learn from ``data``, read after waiting. Payloads that look like messages do no harm."""
        self._free = 0 if data.count(_MESSAGE) > 1 else _FREE_READS


class BoundedTransport(TcpTransport):
    """A TCP or TLS transport that is aborted when its peer does not take part in closing it, and reads at a bounded pace."""

    def __init__(self, gather_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library leaves it without annotations
        self._gather_s = gather_s
        self._pace = Pace()
        self._asked = 0
        self._enough: asyncio.Event | None = None
        """Set when what has gathered is to be read."""

    def __bool__(self) -> bool:
        """Stay in use before the first connection too: the client makes its own transport only in place of a false one."""
        return True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Open the TCP connection."""
        await super().connect(uri, buffer_size, connect_timeout)
        if self._io_writer is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw = self._io_writer.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNACKNOWLEDGED_S * 1000))

    async def read(self, buffer_size: int) -> bytes:
        """Return what has arrived, at most ``buffer_size`` bytes, or :data:`READ_BYTES` if it gathered; empty at the end."""
        transport = cast("asyncio.Transport", self._io_writer.transport) if self._io_writer is not None else None
        if transport is None or not self._pace.gather() or not transport.is_reading():
            return cast("bytes", await super().read(buffer_size))
        # Paused, or each arrival would wake the loop all the same.
        transport.pause_reading()
        await self._gather()
        transport.resume_reading()
        data = cast("bytes", await super().read(max(buffer_size, READ_BYTES)))
        self._pace.gathered(data)
        return data

    async def _gather(self) -> None:
        self._enough = asyncio.Event()
        wait_s = min(self._gather_s, HURRIED_S) if self._asked else self._gather_s
        timer = asyncio.get_running_loop().call_later(wait_s, self._enough.set)
        try:
            await self._enough.wait()
        finally:
            timer.cancel()
            self._enough = None

    def hurry(self) -> None:
        """Gather no longer than :data:`HURRIED_S` from now on, until :meth:`relax` is called as often."""
        self._asked += 1
        if self._enough is not None and self._gather_s > HURRIED_S:
            asyncio.get_running_loop().call_later(HURRIED_S, self._enough.set)

    def relax(self) -> None:
        """Take one :meth:`hurry` back."""
        self._asked -= 1

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, at most :data:`CLOSE_TIMEOUT_S`."""
        writer = self._io_writer
        if writer is None:
            return
        try:
            await asyncio.wait_for(writer.wait_closed(), CLOSE_TIMEOUT_S)
        except (TimeoutError, OSError):
            writer.transport.abort()


class Terms(NamedTuple):
    """On what terms a client talks to a server."""

    encrypted: bool
    """Nothing but the server's greeting may pass without TLS."""
    identified: bool
    """The server must ask who is there: one that does not is another than the one that was meant."""
    context: Callable[[], ssl.SSLContext]
    """Makes the context of each TLS connection."""
    websocket: bool
    gather_s: float
    """How long messages may gather on a busy connection."""
    failed: Callable[[str, Exception], bool]
    """Told of each attempt that failed, the server's host and port and why; returns whether to go on."""


class BoundedClient(Client):
    """A NATS client over :class:`BoundedTransport` that keeps :class:`Terms`.

    The library sends its credentials in the clear when the server's greeting says nothing of TLS, whatever the URL says; it
    believes what a greeting in the clear tells about further servers; and an unexpected exception ends its coming back, or
    its reading, without a word. Hence the overrides.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self._terms = terms
        self._ps: DirectParser = DirectParser(self)
        self._transport = websocket_transport() if terms.websocket else BoundedTransport(terms.gather_s)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context of the next TLS connection."""
        return self._terms.context()

    async def hear(self, subject: str, take: Take) -> Subscription:
        """Have ``take`` called for each message on ``subject`` as soon as it is read, without its headers.

        What is not taken in time waits on the wire, not here. Raises what ``subscribe`` does.
        """

        async def before(message: Msg) -> None:
            # Read before the parser has been told, which is after the server.
            take(message.subject, message.data)

        subscription = await self.subscribe(subject, cb=before)
        self._ps.takers[subscription._id] = take  # noqa: SLF001  # nothing else names it
        return subscription

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Read what comes sooner: somebody waits for it."""
        transport = self._transport if isinstance(self._transport, BoundedTransport) else None
        if transport is None:
            yield
            return
        transport.hurry()
        try:
            yield
        finally:
            transport.relax()

    def attend(self, subscription: Subscription, beat: Beat) -> None:
        """Have ``beat`` called for the heartbeats of a pull on ``subscription``, in place of its own callback."""
        self._ps.beats[subscription._id] = beat  # noqa: SLF001  # nothing else names it

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._ps.takers.pop(sid, None)
        self._ps.beats.pop(sid, None)

    async def publish_all(self, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Publish small messages without headers at once, each with its subject, where to reply, and its data.

        Subjects and replies are not examined: they must be of :mod:`schemas.subjects` and inboxes of this connection. Raises
        what ``publish`` does.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        frames = b"".join(
            [b"PUB %s %s %d\r\n%s\r\n" % (to.encode(), back.encode(), len(data), data) for to, back, data in messages]
        )
        if not self.is_connected and len(frames) + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        self.stats["out_msgs"] += len(messages)
        self.stats["out_bytes"] += sum(len(data) for _, _, data in messages)
        await self._send_command(frames)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        # Whatever a client puts there comes here. It must neither end the connection nor pass for what the server has added.
        if not headers or _HEADERS.match(headers):
            return await super()._process_headers(headers)
        return _salvaged(headers)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Msg:
        # The same, of subjects. None of ours has any but ASCII.
        return cast("Msg", super()._build_message(sid, _ascii(subject), _ascii(reply), data, headers))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        take = self._ps.takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._ps.hand(take, subject, data)

    async def _connect_to_server(self, s: Srv) -> None:
        if self._terms.websocket and not self._transport:
            self._transport = websocket_transport()
        await self._attempt(s.uri.netloc, super()._connect_to_server(s))

    async def _process_connect_init(self) -> None:
        server = self._current_server.uri.netloc if self._current_server is not None else ""
        await self._attempt(server, super()._process_connect_init())

    async def _attempt(self, server: str, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except Exception as error:
            if not self._terms.failed(server, error):
                # The only thing that ends the library's first connect, which would try for ever, without any pause.
                raise asyncio.CancelledError from error
            if isinstance(error, OSError | nats.errors.Error | TimeoutError):
                raise
            # The library would end its coming back at anything else.
            raise nats.errors.Error(str(error) or type(error).__name__) from error

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task is not None and not task.cancelling():
            await self._process_op_err(nats.errors.StaleConnectionError())

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            # Whoever waited for it has given up: the library would fail over that, and end its reading without a word.
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            if self._terms.identified and not info.get("nonce"):
                raise UnaskedError
            if self._terms.encrypted and not self._terms.websocket:
                if not (info.get("tls_required") or info.get("tls_available")):
                    raise nats.errors.SecureConnWantedError
                info["tls_required"] = True
        if self._terms.websocket or (initial_connection and self._terms.encrypted):
            info = {key: value for key, value in info.items() if key != "connect_urls"}
        await super()._process_info(info, initial_connection)


def _salvaged(headers: bytes) -> dict[str, str]:
    """Return what is a header among lines that are not all: the server has put its own behind those of a client."""
    found = filter(None, map(_HEADER.match, headers.split(b"\r\n")[1:]))
    return {one[1].decode(): one[2].strip().decode("utf-8", "replace") for one in found}


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else text.decode("ascii", "backslashreplace").encode()


class UnaskedError(nats.errors.Error):
    """A server that does not ask who is there."""

    def __str__(self) -> str:
        return "the server does not ask for credentials"


def websocket_transport() -> Transport:
    """Return a new transport over WebSocket.

    :raises ConfigError: aiohttp is not installed.
    """
    try:
        # By name: the agent is installed without aiohttp, unless it is to use this.
        module = importlib.import_module("attestream.bus.websocket")
    except ImportError as error:
        raise ConfigError(
            "WebSocket URLs (ws, wss) need aiohttp, which is not installed", remedy="Run `pip install aiohttp`."
        ) from error
    return cast("Transport", module.BoundedWebSocket())


def reconnect_handler(
    spread_s: float, lost: Callable[[], str] = str, uniform: Callable[[float, float], float] = random.uniform
) -> Callable[[list[Server], dict[str, Any]], tuple[Server | None, float]]:
    """Return the choice of server and delay before each attempt to come back.

    The server with the fewest failed attempts is taken, by lot among equals, and the one that was lost (``lost`` names its
    host and port) after its equals. The delay is uniform over ``spread_s`` seconds, growing to four times that with failed
    attempts, so that a fleet does not come back in one instant.
    """

    def choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
        last = lost()
        server = min(servers, key=lambda one: (one.reconnects, one.uri.netloc == last, uniform(0.0, 1.0)))
        factor = min(_MAX_SPREAD_FACTOR, 1 + server.reconnects)
        return server, uniform(0.01, max(0.02, spread_s * factor))

    return choose
