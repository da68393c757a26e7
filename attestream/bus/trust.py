"""A connection's trust: signs what is published, and says who has signed what was received, by the roster on the bus.

The roster is read at the start, every half minute, and when a key turns up that it does not have. It only ever goes forward:
a roster with an older version is refused, also after a restart when a file keeps the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from attestream.bus.stored import replica_message
from attestream.clock import unix_ms
from attestream.config import TrustConfig
from attestream.errors import AttestreamError, ConfigError, MalformedError, SignatureError
from attestream.signing import MAX_PEM_BYTES, Signer, TrustedKeys, public_key
from attestream.telemetry import REJECTED, counter
from attestream.trust import publication, roster
from attestream.trust.authority import makers
from attestream.trust.keyring import ANYBODY, Author, Keyring, UnknownKeyError, check_role, check_time
from schemas import subjects, topology
from schemas.base import Decoder, Message, SchemaError, encode
from schemas.events import Signed
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

REFRESH_S: Final = 30.0
"""Seconds between two looks at the roster."""

_log = logging.getLogger(__name__)

_AGAIN_S: Final = 1.0
_START_S: Final = 15.0
_CACHED: Final = 16_384
_MAX_ROSTER: Final = 1 << 20
_SIGNED: Final = Decoder[Signed](Signed)

M = TypeVar("M", bound=Message)


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


class Trust:
    """Whom one connection believes, and as whom it speaks. :meth:`start` before use.

    ``roots`` are the keys that may sign the roster. ``signer`` signs what this process publishes; one that only reads has
    none. ``roster_file`` keeps the newest roster that was seen. ``installation`` is the id that the roster must have; empty
    for whichever the root keys have signed.
    """

    def __init__(
        self,
        roots: TrustedKeys,
        signer: Signer | None = None,
        *,
        roster_file: Path | None = None,
        installation: str = "",
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self.signer = signer
        self.rejected = 0
        """Messages that were not believed."""
        self._roots = roots
        self._file = roster_file
        self._installation = installation
        self._clock = clock
        self._checked = True
        self._keyring: Keyring | None = None
        self._stale = b""
        self.roster_bytes = b""
        """The roster in use, in its envelope."""
        self._known: OrderedDict[bytes, Author] = OrderedDict()
        self._counter = counter(REJECTED)
        self._bus: Bus | None = None
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def unsigned(cls) -> Trust:
        """Return one that neither signs nor checks, for tests and for a bus that only one's own processes can reach."""
        trust = cls(TrustedKeys([]))
        trust._checked = False
        return trust

    @property
    def checked(self) -> bool:
        """Whether signatures are made and demanded here."""
        return self._checked

    @property
    def keyring(self) -> Keyring:
        """The keys of the newest roster.

        :raises ConfigError: before :meth:`start`.
        """
        if self._keyring is None:
            raise ConfigError("the roster of keys has not been read")
        return self._keyring

    async def start(self, bus: Bus, *, timeout_s: float = _START_S) -> None:
        """Read the roster from ``bus``, where it may come a moment later than we, and become the bus's trust.

        :raises ConfigError: there is none; or it belongs to another installation; or it does not have the signer's key.
        :raises BusError: the bus does not answer.
        """
        self._bus = bus
        if self._checked:
            self._read_file()
            deadline = asyncio.get_running_loop().time() + timeout_s
            while not await self._look(first=True) and self._keyring is None:
                if asyncio.get_running_loop().time() >= deadline:
                    raise ConfigError(
                        "the bus has no roster of keys",
                        remedy="Start the registrar, which publishes it; make one with `attestream init`.",
                    )
                await asyncio.sleep(0.1)
            self._check_signer()
            self._task = asyncio.create_task(self._follow())
        bus.trust = self

    async def stop(self) -> None:
        """Read the roster no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def sign(self, subject: str, payload: bytes) -> dict[str, str]:
        """Return the header that signs ``payload`` for ``subject``; none where nothing is signed.

        :raises ConfigError: there is no key to sign with.
        """
        if not self._checked:
            return {}
        if self.signer is None:
            raise ConfigError("there is no key to sign with", remedy="Name it in `signing_key_file`, or use a credential.")
        return {subjects.HEADER_SIGNATURE: publication.sign(self.signer, subject, payload, self._clock())}

    async def author_of(self, message: Received, roles: Collection[Role] | None = None) -> Author:
        """Return who has signed a stored message. ``roles`` are those whose word counts; by default, by its subject.

        :raises SignatureError: it is not signed, or not by a key that counts, or was published elsewhere or long before.
        :raises ForbiddenError: another role has signed it.
        """
        return await self.author(message.subject, message.data, message.headers, message.at, roles)

    async def author(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        received_at: int,
        roles: Collection[Role] | None = None,
    ) -> Author:
        """Return who has signed ``payload`` for ``subject``: :meth:`author_of` for what is not stored."""
        if not self._checked:
            return ANYBODY
        header = (headers or {}).get(subjects.HEADER_SIGNATURE, "")
        try:
            try:
                author = self._verified(subject, payload, header, received_at)
            except UnknownKeyError:
                await self.refresh()
                author = self._verified(subject, payload, header, received_at)
            check_role(author, makers(subject) if roles is None else roles)
        except AttestreamError:
            self._reject(subject)
            raise
        return author

    async def open(self, signed: Signed, kind: type[M], role: Role, received_at: int, signed_at: Callable[[M], int]) -> M:
        """Return the message in an envelope by a key of ``role``; ``signed_at`` takes the time of the signature out of it.

        ``received_at`` is when it was stored, or has come (Unix ms).

        :raises SignatureError: no such key has signed it, or it did not count then.
        :raises MalformedError: what was signed is no message of ``kind``.
        """
        try:
            if self.keyring.entry(signed.key_id) is None:
                await self.refresh()
            entry = self.keyring.entry(signed.key_id)
            if entry is None:
                raise SignatureError(f"the roster has no key {signed.key_id[:64]!r}")
            message = self.keyring.of_role(role).open(signed, kind)
            check_time(entry, signed_at(message), received_at)
        except AttestreamError:
            self._reject(role)
            raise
        return message

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

    def _verified(self, subject: str, payload: bytes, header: str, received_at: int) -> Author:
        keyring = self.keyring
        signature = publication.parse(header)
        known = hashlib.sha256(b"\x00".join((subject.encode(), header.encode(), payload))).digest()
        author = self._known.get(known)
        if author is None:
            author = keyring.verify(signature, subject, payload, received_at=received_at)
            self._known[known] = author
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
        elif (entry := keyring.entry(author.key_id)) is not None:
            # The same bytes may come once more, long after: what is remembered is who has signed, not that it is in time.
            check_time(entry, author.signed_at, received_at)
        return author

    def _reject(self, what: str) -> None:
        self.rejected += 1
        self._counter.add(1, {"what": what.split(".")[1] if what.startswith("att.") else what.split(".")[0]})

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
            return self.take(found.data)
        except AttestreamError as error:
            self._reject("roster")
            if first:
                raise ConfigError(
                    f"the bus belongs to another installation, or is in its hands: {error.message}",
                    remedy="Check the address of the bus and whose root key `root_keys` names.",
                ) from error
            raise

    def take(self, data: bytes) -> bool:
        """Use the roster in ``data`` unless the one in use is newer; return whether it is used now.

        :raises SignatureError: no root key has signed it, or it belongs to another installation.
        :raises MalformedError: it can not be read.
        """
        try:
            ours = roster.open_signed(_SIGNED.decode(data), self._roots)
        except SchemaError as error:
            raise MalformedError(f"the roster can not be read: {error}") from error
        wanted = self._installation or (self._keyring.installation if self._keyring is not None else ours.installation)
        if ours.installation != wanted:
            raise SignatureError(f"it is of installation {ours.installation[:64]!r}; this is {wanted!r}")
        if self._keyring is not None and ours.version <= self._keyring.version:
            if ours.version < self._keyring.version:
                if data != self._stale:
                    self._stale = data
                    self._reject("roster")
                    _log.error("roster %d is offered after %d: an older one is refused", ours.version, self._keyring.version)
                return False
            if encode(ours) != encode(self._keyring.roster):
                raise SignatureError(f"there are two rosters of version {ours.version}")
            return True
        self._keyring = Keyring(ours)
        self._known.clear()
        self.roster_bytes = data
        _log.info("roster %d of installation %s with %d keys", ours.version, ours.installation, len(ours.keys))
        self._write_file(data)
        return True

    def _check_signer(self) -> None:
        if self.signer is None:
            return
        entry = self.keyring.entry(self.signer.key_id)
        if entry is None or entry.revoked_at:
            raise ConfigError(
                f"the roster has no key {self.signer.key_id} that counts: nobody would believe this process",
                remedy="Put the key into the roster, or name the right `signing_key_file`.",
            )

    def _read_file(self) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("rb") as file:
                data = file.read(_MAX_ROSTER + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"the roster {self._file} can not be read: {error.strerror}") from error
        try:
            self.take(data)
        except AttestreamError as error:
            raise ConfigError(f"the roster {self._file} can not be used: {error.message}") from error

    def _write_file(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._file.exists() and self._file.read_bytes() == data:
                return
            beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            beside.write_bytes(data)
            beside.replace(self._file)
        except OSError as error:
            _log.warning("the roster can not be kept in %s: %s", self._file, error.strerror)


def configured(config: TrustConfig, signing_key_file: Path | None, *, signs: bool = True) -> Trust:
    """Return the trust of a service, to be started on its bus. ``signs``: whether it must have a key to sign with.

    :raises ConfigError: there are neither root keys nor the word that nothing is signed; or a key can not be used.
    """
    if config.unsigned:
        _log.warning("nothing is signed and nothing checked: whoever reaches the bus is believed")
        return Trust.unsigned()
    if not config.root_keys:
        raise ConfigError(
            "[trust] `root_keys` is not set: this process would believe whoever reaches the bus",
            remedy="Name the installation's root key there, `trusted/root.pem` where `attestream init` was run.",
        )
    if signs and signing_key_file is None:
        raise ConfigError(
            "`signing_key_file` is not set: nobody would believe this process",
            remedy="Name the service's private key, which is in `keys` where `attestream init` was run.",
        )
    return Trust(
        read_roots(config.root_keys),
        Signer.load(signing_key_file) if signing_key_file is not None else None,
        roster_file=config.roster_file,
        installation=config.installation,
    )


def read_roots(paths: Collection[Path]) -> TrustedKeys:
    """Return the root keys in PEM files.

    :raises ConfigError: one can not be read, or is not a public key.
    """
    keys = []
    for path in paths:
        try:
            with path.open("rb") as file:
                keys.append(public_key(file.read(MAX_PEM_BYTES)))
        except OSError as error:
            raise ConfigError(f"the root key {path} can not be read: {error.strerror}") from error
        except MalformedError as error:
            raise ConfigError(f"{path}: {error.message}") from error
    return TrustedKeys(keys)
