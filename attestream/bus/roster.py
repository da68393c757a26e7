"""The roster of keys, as one connection knows it: read from the bus at the start, every half minute, and when it is needed.

It only ever goes forward: a roster with an older version is refused, also after a restart when a file keeps the newest. When
no registrar has said for too long that it is the newest, it does not count any more (:mod:`attestream.trust.freshness`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from attestream.bus.stored import replica_message
from attestream.errors import AttestreamError, ConfigError, MalformedError, SignatureError
from attestream.signing import TrustedKeys
from attestream.telemetry import ROSTER_AGE, gauge
from attestream.trust import freshness
from attestream.trust.keyring import Keyring
from attestream.trust.roots import UnknownRootError, follow, open_roster
from schemas import topology
from schemas.base import Decoder, SchemaError, decode, encode
from schemas.events import Signed
from schemas.trust import Roster

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.bus.roster_file import RosterFile

REFRESH_S: Final = 30.0
"""Seconds between two looks at the roster."""

_AGAIN_S: Final = 1.0
_SETTLED_MS: Final = 60_000
"""Milliseconds for which an older roster may still be read after a change, from a server that lags."""
_SIGNED: Final = Decoder[Signed](Signed)
_log = logging.getLogger(__name__)


class Received(Protocol):
    """A message that was stored: a :class:`attestream.bus.delivery.Delivery`, a :class:`attestream.bus.stored.Stored`."""

    @property
    def subject(self) -> str:
        """Under which it is stored."""
        ...

    @property
    def data(self) -> bytes:
        """The payload."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """As its author and the bus wrote them."""
        ...

    @property
    def at(self) -> int:
        """When it was stored (Unix ms)."""
        ...


class RosterReader:
    """Reads the roster that one of ``roots`` has signed and keeps it in ``file``. :meth:`start` before use.

    ``installation`` is the id that it must have; empty for whichever was signed. ``max_age_ms`` is for how long it counts
    when no registrar vouches for it any more; 0: for ever. ``rejected`` is called for each roster that is not believed.
    """

    def __init__(
        self,
        roots: TrustedKeys,
        file: RosterFile,
        *,
        installation: str,
        max_age_ms: int,
        clock: Callable[[], int],
        rejected: Callable[[], None],
    ) -> None:
        self.data = b""
        """The roster in use, in its envelope."""
        self._roots = roots
        self._file = file
        self._installation = installation
        self._clock = clock
        self._rejected = rejected
        self._keyring: Keyring | None = None
        self._freshness = freshness.Freshness(max_age_ms)
        self._age = gauge(ROSTER_AGE)
        self._stale = False
        self._taken_at = 0
        self._refused = b""
        self._bus: Bus | None = None
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def keyring(self) -> Keyring:
        """The keys of the newest roster.

        :raises ConfigError: before :meth:`start`.
        """
        if self._keyring is None:
            raise ConfigError("the roster of keys has not been read")
        return self._keyring

    async def start(self, bus: Bus, timeout_s: float) -> None:
        """Read the roster from ``bus``, where it may come a moment later than we, and go on reading.

        :raises ConfigError: there is none; or it belongs to another installation.
        :raises BusError: the bus does not answer.
        """
        self._bus = bus
        self._read_file()
        deadline = asyncio.get_running_loop().time() + timeout_s
        # A registrar that starts with us has still to give its word.
        while (not await self._look(first=True) and self._keyring is None) or self._freshness.stale(self._clock()):
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.1)
        if self._keyring is None:
            raise ConfigError(
                "the bus has no roster of keys",
                remedy="Start the registrar, which publishes it; make one with `attestream init`.",
            )
        self._tell_age()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Read the roster no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> None:
        """Read the roster again, at most once a second. What goes wrong is logged: the one that we have goes on."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            if self._bus is None or loop.time() - self._looked < _AGAIN_S:
                return
            self._looked = loop.time()
            try:
                await self._look()
            except AttestreamError as error:
                _log.warning("the roster can not be read: %s", error.message)
            self._tell_age()

    async def check_fresh(self) -> None:
        """Do nothing while the roster counts.

        :raises StaleRosterError: no registrar vouches for it any more.
        """
        if self._freshness.stale(self._clock()):
            await self.refresh()
            self._freshness.check(self._clock())

    def take(self, data: bytes) -> bool:
        """Use the roster in ``data`` unless the one in use is newer; return whether it is used now.

        :raises SignatureError: no root key has signed it, or it belongs to another installation.
        :raises MalformedError: it can not be read.
        """
        try:
            ours, following = open_roster(_SIGNED.decode(data), self._roots)
        except SchemaError as error:
            raise MalformedError(f"the roster can not be read: {error}") from error
        wanted = self._installation or (self._keyring.installation if self._keyring is not None else ours.installation)
        if ours.installation != wanted:
            raise SignatureError(f"it is of installation {ours.installation[:64]!r}; this is {wanted!r}")
        if self._keyring is not None and ours.version <= self._keyring.version:
            if ours.version < self._keyring.version:
                self._refuse(ours.version, data)
                return False
            if encode(ours) != encode(self._keyring.roster):
                raise SignatureError(f"there are two rosters of version {ours.version}")
            return True
        self._keyring = Keyring(ours)
        self._follow_roots(ours, following)
        self._taken_at = self._clock()
        self._freshness.know(ours.issued_at, self._taken_at)
        self.data = data
        _log.info("roster %d of installation %s with %d keys", ours.version, ours.installation, len(ours.keys))
        self._file.write(data)
        return True

    def vouched_at(self, message: Received) -> int:
        """Return when a registrar vouched for the roster in use, which the stored ``message`` holds (Unix ms); 0: none has
        whose word counts."""
        try:
            return freshness.vouched_at(self.keyring, message.subject, message.data, message.headers, self._clock())
        except AttestreamError as error:
            self._rejected()
            _log.warning("whoever vouches for roster %d is not believed: %s", self.keyring.version, error.message)
            return 0

    def _follow_roots(self, ours: Roster, following: TrustedKeys) -> None:
        """Believe the root keys that count from now on, and those alone."""
        if following.key_ids == self._roots.key_ids:
            return
        before, after = self._roots.key_ids - following.key_ids, following.key_ids - self._roots.key_ids
        _log.warning("root key %s has given its place to %s", " ".join(sorted(before)), " ".join(sorted(after)))
        self._roots = following
        self._file.keep_vouchers(ours.vouchers)

    def _refuse(self, version: int, data: bytes) -> None:
        newer = self.keyring.version
        if abs(self._clock() - self._taken_at) < _SETTLED_MS:
            _log.info("roster %d is read after %d: a server lags behind", version, newer)
        elif data != self._refused:
            self._refused = data
            self._rejected()
            _log.error("roster %d is offered after %d: an older one is refused", version, newer)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def _look(self, *, first: bool = False) -> bool:
        """Take the bus's roster if it is newer; return whether the bus has one that could be used."""
        if self._bus is None:
            return False
        bucket = topology.CLUSTER.name
        found = await replica_message(self._bus, f"KV_{bucket}", f"$KV.{bucket}.{topology.KEY_ROSTER}")
        if found is None or not found.data:
            return False
        try:
            used = self.take(found.data)
        except AttestreamError as error:
            self._rejected()
            if first:
                raise ConfigError(
                    f"the bus belongs to another installation, or is in its hands: {error.message}",
                    remedy="Check the address of the bus and whose root key `root_keys` names.",
                ) from error
            raise
        if used:
            self._freshness.know(self.vouched_at(found), self._clock())
        return used

    def _followed(self, data: bytes) -> TrustedKeys:
        """Return the root keys that count by what was kept: the roster in ``data`` may have left out how it came to that."""
        try:
            installation = decode(_SIGNED.decode(data).payload, Roster).installation
        except SchemaError as error:
            raise MalformedError(f"it is no roster: {error}") from error
        return follow(self._roots, self._file.vouchers(), installation)

    def _tell_age(self) -> None:
        """Report how old the last word about the roster is, and when that becomes too old or counts again."""
        now = self._clock()
        self._age.set(self._freshness.age_ms(now) / 1000)
        was, self._stale = self._stale, self._freshness.stale(now)
        if self._stale and not was:
            _log.error("nobody is believed any more: no registrar has vouched for the roster of keys for too long")
        elif was and not self._stale:
            _log.info("a registrar vouches for the roster of keys again")

    def _read_file(self) -> None:
        data = self._file.read()
        if not data:
            return
        try:
            self._roots = self._followed(data)
            self.take(data)
        except UnknownRootError as error:
            # Whoever was given another root key begins anew.
            _log.warning("the roster that %s keeps is not used: %s", self._file.path, error.message)
            return
        except AttestreamError as error:
            raise ConfigError(f"the roster {self._file.path} can not be used: {error.message}") from error
        # What a file has kept is no news: the bus must have it.
        self._taken_at = 0
