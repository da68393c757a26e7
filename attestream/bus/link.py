"""The client of one connection: who it is, how it reaches its servers and comes back to them, and when it gives up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import nats.errors

from attestream.bus.encryption import required
from attestream.bus.identity import Holder, Login, from_file
from attestream.bus.refusals import Violations, explained
from attestream.bus.settings import BusSettings
from attestream.bus.transport import BoundedClient, Terms, reconnect_handler
from attestream.errors import AttestreamError, BusError

_LOG: Final = logging.getLogger(__name__)
_CLOSE_S: Final = 5.0
_CANCEL_S: Final = 0.05


class Callbacks(NamedTuple):
    """What is awaited when the state of the connection changes."""

    error: Callable[[Exception], Awaitable[None]]
    disconnected: Callable[[], Awaitable[None]]
    reconnected: Callable[[], Awaitable[None]]
    closed: Callable[[], Awaitable[None]]


class Link:
    """Opens the client, and closes it for good when the servers refuse its credentials again and again."""

    def __init__(self, settings: BusSettings) -> None:
        """Prepare the client.

        :raises ConfigError: the settings contradict each other, or a file that they name can not be used.
        :raises ExpiredError: the credentials hold no more, or not yet.
        """
        self._settings = settings
        source = settings.identity or (from_file(settings.credentials) if settings.credentials is not None else None)
        self._login = Login(source) if source is not None else None
        encrypted = required(settings.urls, settings.encryption, credentials=source is not None)
        if encrypted:
            # A file that can not be used is told before anything is tried.
            settings.encryption.context()
        terms = Terms(
            encrypted=encrypted,
            identified=source is not None,
            context=settings.encryption.context,
            gather_s=settings.gather_s,
            websocket=settings.urls[0].startswith(("ws://", "wss://")),
            failed=self._failed,
        )
        self.client = BoundedClient(terms)
        self.violations = Violations()
        self._opened = False
        self._reasons: dict[str, AttestreamError] = {}
        """Why trying again can not help, by server."""
        self._tried: set[str] = set()
        self._hopeless = False
        self._refused_in_a_row = 0
        self._giving_up: asyncio.Task[None] | None = None
        self._server = ""

    @property
    def holder(self) -> Holder | None:
        """Who this process is on the bus; ``None`` without credentials."""
        return self._login.holder if self._login is not None else None

    async def open(self, callbacks: Callbacks, ready: Callable[[], Awaitable[None]]) -> None:
        """Connect, and await ``ready`` while a failure still is one of connecting.

        :raises ExpiredError: the servers say that the credentials have expired.
        :raises ForbiddenError: the servers refuse the credentials, or ask for some and there are none.
        :raises BusError: no server could be reached in time, or none can be trusted.
        """
        opening = asyncio.create_task(self._connect(callbacks, ready))
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await asyncio.wait({opening})
            if opening.cancelled():
                raise self._reason(None)
            await opening
        except (nats.errors.Error, TimeoutError, OSError, BusError) as error:
            await self._abandon(opening)
            raise self._reason(error) from error
        except BaseException:
            await self._abandon(opening)
            raise
        self._opened = True
        self.came_back()

    async def _connect(self, callbacks: Callbacks, ready: Callable[[], Awaitable[None]]) -> None:
        settings, login = self._settings, self._login
        await self.client.connect(
            servers=list(settings.urls),
            name=settings.name or None,
            connect_timeout=max(1, int(settings.connect_timeout_s)),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # annotated as int, used as seconds
            ping_interval=settings.ping_interval_s,  # type: ignore[arg-type]  # the same
            max_outstanding_pings=2,
            pending_size=settings.pending_bytes,
            error_cb=callbacks.error,
            disconnected_cb=callbacks.disconnected,
            reconnected_cb=callbacks.reconnected,
            closed_cb=callbacks.closed,
            reconnect_to_server_handler=reconnect_handler(settings.reconnect_spread_s, lambda: self._server),
            # The signature is asked for first: it takes the credentials, and the token then is theirs.
            signature_cb=login.sign if login is not None else None,
            user_jwt_cb=(lambda: bytearray(login.token())) if login is not None else None,
            inbox_prefix=login.holder.inbox if login is not None else "_INBOX",
        )
        # A server that closes during the handshake makes connect() return all the same.
        if not self.client.is_connected:
            raise BusError("the server closed the connection during the handshake")
        await ready()
        await self.client.flush()

    async def _abandon(self, opening: asyncio.Task[None]) -> None:
        self._hopeless = True
        while not opening.done():
            # The library swallows a cancellation here and there.
            opening.cancel()
            await asyncio.wait({opening}, timeout=_CANCEL_S)
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await asyncio.wait_for(self.client.close(), _CLOSE_S)

    def _reason(self, error: Exception | None) -> AttestreamError:
        for reason in self._reasons.values():
            return reason
        where = ", ".join(self._settings.urls)
        return BusError(f"{where} can not be reached: {self.client.last_error or str(error) or type(error).__name__}")

    def came_back(self) -> None:
        """Note that the connection is up."""
        url = self.client.connected_url
        self._server = url.netloc if url is not None else ""
        self._refused_in_a_row = 0
        self._reasons.clear()

    def _failed(self, server: str, error: Exception) -> bool:
        reason = explained(server, error, credentials=self._login is not None)
        self._tried.add(server)
        if not self._opened and not self._settings.patient:
            self._hopeless |= len(self._tried) >= len(self._settings.urls)
        if reason is None:
            self._reasons.pop(server, None)
        else:
            self._reasons[server] = reason
            if self._opened:
                self._refused(reason)
            else:
                # What is wrong with the files here is wrong for every server.
                self._hopeless |= len(self._reasons) >= len(self._settings.urls) or reason is error
        return self._opened or not self._hopeless

    def _refused(self, reason: AttestreamError) -> None:
        _LOG.warning("no way back to the bus: %s", reason.message)
        if isinstance(reason, BusError):
            return
        # Servers of a cluster learn of an account one after another: each is asked twice.
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= 2 * len(self.client.server_pool) and self._giving_up is None:
            self._giving_up = asyncio.create_task(self.client.close())
