"""The bus over WebSocket, for networks that let nothing but HTTPS through. The only part that needs aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final
from urllib.parse import ParseResult

import aiohttp
import nats.errors
from nats.aio.transport import Transport

from attestream.bus.transport import CLOSE_TIMEOUT_S

_MAX_FRAME_BYTES: Final = 8 << 20


class BoundedWebSocket(Transport):
    """A WebSocket transport whose every step is bounded in time, and whose errors are those of a lost connection."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._pending: list[bytes] = []

    def __bool__(self) -> bool:
        """Stay in use for all connections: the client makes its own transport only in place of a false one."""
        return True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002 - the interface
        """Connect in the clear."""
        await self._open(uri.geturl(), None, connect_timeout)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002 - the interface
        connect_timeout: int,
    ) -> None:
        """Connect over TLS. Asked for again by a greeting that wants TLS, do nothing: the connection has it."""
        if isinstance(uri, str):
            if self._socket is None:
                raise nats.errors.SecureConnFailedError
            return
        await self._open(uri.geturl(), ssl_context, connect_timeout)

    async def _open(self, url: str, context: ssl.SSLContext | None, timeout_s: float) -> None:
        await self.wait_closed()
        self._pending.clear()
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(timeout_s):
                self._socket = await self._session.ws_connect(
                    url,
                    ssl=context if context is not None else True,
                    max_msg_size=_MAX_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise error.certificate_error from error
        except aiohttp.ClientError as error:
            raise ConnectionError(f"no WebSocket at {url}: {error}") from error

    def write(self, payload: bytes) -> None:
        """Keep ``payload`` for the next :meth:`drain`."""
        self._pending.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Keep all of ``payload`` for the next :meth:`drain`."""
        self._pending.extend(payload)

    async def drain(self) -> None:
        """Send what was written, as one frame."""
        if self._socket is None or self._socket.closed:
            raise ConnectionResetError("the WebSocket is closed")
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            try:
                await self._socket.send_bytes(data)
            except aiohttp.ClientError as error:
                raise ConnectionResetError(str(error)) from error

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002 - a frame comes whole
        """Return the next frame; empty at the end."""
        return await self.readline()

    async def readline(self) -> bytes:
        """Return the next frame; empty at the end."""
        if self._socket is None:
            return b""
        message: Any = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ConnectionResetError(f"the WebSocket broke: {message.data}")
        return b""

    async def wait_closed(self) -> None:
        """Close, within :data:`CLOSE_TIMEOUT_S`."""
        socket, self._socket = self._socket, None
        session, self._session = self._session, None
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if socket is not None:
                    await socket.close()
        if session is not None:
            await session.close()

    def close(self) -> None:
        """Begin to close; :meth:`wait_closed` does it."""

    def at_eof(self) -> bool:
        """Return whether the connection has ended."""
        return self._socket is None or self._socket.closed
