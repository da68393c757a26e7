"""No identity holds more connections to the bus than its role may.

nats-server (2.15) bounds the connections of a server and of an account, not those of one identity. So the registrar hears
of each over the bus's own account, and has the oldest closed where there are too many: who was cut off and has come back
uses the newest. Registrars that share the work close the same ones.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus.connection import Bus
from attestream.credentials.token import role_in
from attestream.errors import BusError, ForbiddenError
from attestream.rates import Buckets
from attestream.telemetry import BUS_SURPLUS, counter
from schemas.roles import GRANTS
from services.registrar.bus_servers import ANSWER_S, Server, gather

LOOK_S: Final = 3_600.0
"""Seconds between two looks at all connections. What servers tell in between keeps the picture right; a server that died
has told nothing of the connections that died with it."""

_PAGE: Final = 512
"""Connections that a server is asked for at a time: about 1.5 KiB each."""
_AGAIN_S: Final = 5.0
_SHARE: Final = 16
_SAY_S: Final = 60.0
"""Seconds between two lines in the log about the same identity."""

_NEWS: Final = "$SYS.ACCOUNT.*.*"
"""In one subscription, so that the end of a connection is not heard of before its beginning."""
_MOST: Final = {str(granted.role): granted.connections for granted in GRANTS if granted.connections >= 0}
_log = logging.getLogger(__name__)


class _Client(msgspec.Struct, frozen=True):
    id: int
    start: dt.datetime
    user: str = ""
    tags: tuple[str, ...] = ()


class _Told(msgspec.Struct, frozen=True):
    """That a connection has begun or ended."""

    server: Server
    client: _Client


class _Listed(msgspec.Struct, frozen=True):
    cid: int
    start: dt.datetime
    authorized_user: str = ""
    tags: tuple[str, ...] = ()


class _List(msgspec.Struct, frozen=True):
    total: int = 0
    connections: list[_Listed] | None = None


class _Page(msgspec.Struct, frozen=True):
    server: Server
    data: _List = _List()


_TOLD: Final = msgspec.json.Decoder(_Told)
_PAGES: Final = msgspec.json.Decoder(_Page)


class Connections:
    """Follows who is connected, and has surplus connections closed.

    :param system: a connection of the bus's own account.
    :param steady: a clock that only goes forward, in seconds.
    """

    def __init__(self, system: Bus, steady: Callable[[], float] = time.monotonic) -> None:
        self._system = system
        self._held: dict[str, dict[tuple[str, int], dt.datetime]] = {}
        """Of each identity, by its public key: server and number of each connection, and since when it is there."""
        self._said = Buckets(_SAY_S, 1, steady)
        self._counter = counter(BUS_SURPLUS)
        self._again = asyncio.Event()
        self._subscription: Subscription | None = None
        self._forget: Callable[[], None] | None = None

    async def start(self) -> bool:
        """Hear of connections from now on; return whether that is allowed.

        :raises BusError: the bus does not answer.
        """
        try:
            self._subscription = await self._system.subscribe(_NEWS, self._heard)
        except ForbiddenError as error:
            _log.error(
                "nobody bounds the connections of one identity: %s. The bus's own account is of an older version: "
                "`attestream keys refresh` brings it up to this one; then start the registrar again.",
                error.message,
            )
            return False
        self._forget = self._system.on_reconnect(self._missed)
        return True

    async def run(self) -> None:
        """Look at all connections at the start, when some may have been missed, and from time to time; for ever."""
        while True:
            self._again.clear()
            pause = LOOK_S
            try:
                await self.look()
            except BusError as error:
                _log.warning("surplus connections stay for now: %s", error.message)
                pause = _AGAIN_S
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Hear of connections no more."""
        if self._forget is not None:
            self._forget()
        if self._subscription is not None and not self._system.nc.is_closed:
            await self._subscription.unsubscribe()

    async def look(self) -> None:
        """Make the picture anew, of what every server has; what is told meanwhile belongs to it.

        :raises BusError: no server answers, or one has gone.
        """
        self._held = {}
        for answer in await gather(self._system, "$SYS.REQ.SERVER.PING.CONNZ", _options(0), ANSWER_S, 0):
            server, found = await self._all_of(_page(answer))
            for one in found:
                await self._hold(one.authorized_user, role_in(one.tags), (server, one.cid), one.start)

    async def _all_of(self, page: _Page) -> tuple[str, list[_Listed]]:
        """Return all connections of the server whose first page is ``page``: before any is closed, as pages would shift."""
        server, found = page.server.id, []
        while listed := page.data.connections:
            found += listed
            if len(found) >= page.data.total:
                break
            subject = f"$SYS.REQ.SERVER.{server}.CONNZ"
            page = _page((await gather(self._system, subject, _options(len(found)), ANSWER_S, 1))[0])
        return server, found

    async def _missed(self) -> None:
        self._again.set()

    async def _heard(self, message: Msg) -> None:
        news = message.subject.rpartition(".")[2]
        if news not in ("CONNECT", "DISCONNECT") or (told := _told(message)) is None:
            return
        client, connection = told.client, (told.server.id, told.client.id)
        if news == "CONNECT":
            await self._hold(client.user, role_in(client.tags), connection, client.start)
        elif (held := self._held.get(client.user)) is not None:
            held.pop(connection, None)
            if not held:
                del self._held[client.user]

    async def _hold(self, user: str, role: str, connection: tuple[str, int], start: dt.datetime) -> None:
        most = _MOST.get(role)
        if most is None or not user:
            return
        held = self._held.setdefault(user, {})
        held[connection] = start
        if len(held) <= most:
            return
        if self._said.of(user).take():
            _log.warning("%s %s has more than %d connections to the bus: the oldest are closed", role, user, most)
        # Some more where there are many: their order is not asked for with each that comes.
        for surplus in sorted(held, key=lambda one: (held[one], one))[: len(held) - most + most // _SHARE]:
            del held[surplus]
            await self._close(*surplus)
            self._counter.add(1, {"role": role})

    async def _close(self, server: str, number: int) -> None:
        nc = self._system.nc
        try:
            # Without a place for an answer, which nobody waits for, the server does nothing.
            order = msgspec.json.encode({"cid": number})
            await nc.publish(f"$SYS.REQ.SERVER.{server}.KICK", order, reply=nc.new_inbox())
        except nats.errors.Error as error:
            # It is met again when the connection is back.
            _log.warning("a surplus connection stays for now: %s", error)


def _options(offset: int) -> bytes:
    return msgspec.json.encode({"auth": True, "sort": "cid", "limit": _PAGE, "offset": offset})


def _page(answer: Msg) -> _Page:
    try:
        return _PAGES.decode(answer.data)
    except ValueError as error:
        raise BusError("a server of the bus has listed its connections in a form that can not be read") from error


def _told(message: Msg) -> _Told | None:
    try:
        return _TOLD.decode(message.data)
    except ValueError as error:
        _log.warning("a server of the bus tells of a connection what can not be read: %s", error)
        return None
