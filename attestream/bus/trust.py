"""A connection's trust: signs what is published, and says who has signed what was received, by the roster on the bus."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from attestream.bus.roster import Received, RosterReader
from attestream.bus.roster_file import RosterFile
from attestream.clock import unix_ms
from attestream.config import TrustConfig
from attestream.errors import AttestreamError, ConfigError, MalformedError, SignatureError
from attestream.signing import MAX_PEM_BYTES, Signer, TrustedKeys, public_key
from attestream.telemetry import REJECTED, counter
from attestream.trust import publication
from attestream.trust.authority import makers
from attestream.trust.freshness import MIN_AGE_S
from attestream.trust.keyring import ANYBODY, Author, Keyring, UnknownKeyError, check_role, check_time
from schemas import subjects
from schemas.base import Message
from schemas.events import Signed
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_log = logging.getLogger(__name__)

_START_S: Final = 15.0
_CACHED: Final = 16_384

M = TypeVar("M", bound=Message)


class Trust:
    """Whom one connection believes, and as whom it speaks. :meth:`start` before use.

    ``roots`` are the keys that may sign the roster. ``signer`` signs what this process publishes; one that only reads has
    none. ``roster_file`` keeps the newest roster that was seen. ``installation`` is the id that the roster must have; empty
    for whichever the root keys have signed. ``max_age_ms`` is for how long the roster counts when no registrar vouches for
    it any more; 0: for ever.
    """

    def __init__(
        self,
        roots: TrustedKeys,
        signer: Signer | None = None,
        *,
        roster_file: Path | None = None,
        installation: str = "",
        max_age_ms: int = 0,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self.signer = signer
        self.rejected = 0
        """Messages that were not believed."""
        self._clock = clock
        self._checked = True
        self._known: OrderedDict[bytes, Author] = OrderedDict()
        self._known_by: Keyring | None = None
        self._counter = counter(REJECTED)
        self._roster = RosterReader(
            roots,
            RosterFile(roster_file),
            installation=installation,
            max_age_ms=max_age_ms,
            clock=clock,
            rejected=lambda: self._reject("roster"),
        )

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
        return self._roster.keyring

    @property
    def roster_bytes(self) -> bytes:
        """The roster in use, in its envelope."""
        return self._roster.data

    async def start(self, bus: Bus, *, timeout_s: float = _START_S) -> None:
        """Read the roster from ``bus``, where it may come a moment later than we, and become the bus's trust.

        :raises ConfigError: there is none; or it belongs to another installation; or it does not have the signer's key.
        :raises BusError: the bus does not answer.
        """
        if self._checked:
            await self._roster.start(bus, timeout_s)
            self._check_signer()
        bus.trust = self

    async def stop(self) -> None:
        """Read the roster no more."""
        await self._roster.stop()

    async def refresh(self) -> None:
        """Read the roster again, at most once a second. What goes wrong is logged: the one that we have goes on."""
        await self._roster.refresh()

    def take(self, data: bytes) -> bool:
        """Use the roster in ``data`` unless the one in use is newer; return whether it is used now.

        :raises SignatureError: no root key has signed it, or it belongs to another installation.
        :raises MalformedError: it can not be read.
        """
        return self._roster.take(data)

    def vouched_at(self, message: Received) -> int:
        """Return when a registrar vouched for the roster in use, which the stored ``message`` holds (Unix ms); 0: never."""
        return self._roster.vouched_at(message)

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
        :raises StaleRosterError: no registrar vouches for the roster any more, so that nobody can be believed.
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
            await self._roster.check_fresh()
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

        ``received_at`` is when it was stored, or has come (Unix ms). What travels so takes trust away: it counts however old
        the roster is.

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

    def _verified(self, subject: str, payload: bytes, header: str, received_at: int) -> Author:
        keyring = self.keyring
        if self._known_by is not keyring:
            self._known_by = keyring
            self._known.clear()
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

    def _check_signer(self) -> None:
        if self.signer is None:
            return
        entry = self.keyring.entry(self.signer.key_id)
        if entry is None or entry.revoked_at:
            raise ConfigError(
                f"the roster has no key {self.signer.key_id} that counts: nobody would believe this process",
                remedy="Put the key into the roster, or name the right `signing_key_file`.",
            )


def configured(config: TrustConfig, signing_key_file: Path | None, *, signs: bool = True) -> Trust:
    """Return the trust of a service, to be started on its bus. ``signs``: whether it must have a key to sign with.

    :raises ConfigError: there are neither root keys nor the word that nothing is signed; or a setting can not be used.
    """
    if config.unsigned:
        _log.warning("nothing is signed and nothing checked: whoever reaches the bus is believed")
        return Trust.unsigned()
    if not config.root_keys:
        raise ConfigError(
            "[trust] `root_keys` is not set: this process would believe whoever reaches the bus",
            remedy="Name the installation's root key there, `trusted/root.pem` where `attestream init` was run.",
        )
    if 0 < config.roster_max_age_s < MIN_AGE_S:
        raise ConfigError(f"[trust] `roster_max_age_s` is less than {MIN_AGE_S}", remedy="Choose more, or 0 for no limit.")
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
        max_age_ms=config.roster_max_age_s * 1000,
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
