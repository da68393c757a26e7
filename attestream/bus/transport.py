"""The NATS client with bounded waits: how it reaches its servers, comes back to them, and lets go of dead ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, cast

from nats.aio.client import Client, Server
from nats.aio.transport import TcpTransport

CLOSE_TIMEOUT_S: Final = 1.0
"""How long a dead connection may take to close. TLS would wait 30 s for a peer that has stalled."""

GATHER_S: Final = 0.002
"""How long a busy connection lets messages gather before it reads again."""

_MAX_SPREAD_FACTOR: Final = 4
_MESSAGE: Final = b"MSG "
"""In the line before each message, with and without headers."""
_FREE_READS: Final = 16


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

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library leaves it without annotations
        self._pace = Pace()

    def __bool__(self) -> bool:
        """Stay in use before the first connection too: the client makes its own transport only in place of a false one."""
        return True

    async def read(self, buffer_size: int) -> bytes:
        """Return what has arrived, at most ``buffer_size`` bytes; empty at the end."""
        transport = cast("asyncio.Transport", self._io_writer.transport) if self._io_writer is not None else None
        if transport is None or not self._pace.gather() or not transport.is_reading():
            return cast("bytes", await super().read(buffer_size))
        # Paused, or each arrival would wake the loop all the same.
        transport.pause_reading()
        await asyncio.sleep(GATHER_S)
        transport.resume_reading()
        data = cast("bytes", await super().read(buffer_size))
        self._pace.gathered(data)
        return data

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, at most :data:`CLOSE_TIMEOUT_S`."""
        writer = self._io_writer
        if writer is None:
            return
        try:
            await asyncio.wait_for(writer.wait_closed(), CLOSE_TIMEOUT_S)
        except (TimeoutError, OSError):
            writer.transport.abort()


class BoundedClient(Client):
    """A NATS client over :class:`BoundedTransport`."""

    def __init__(self) -> None:
        super().__init__()
        self._transport = BoundedTransport()


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
