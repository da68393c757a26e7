"""The keys of a roster, ready to say who has signed a message and whether that counts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from attestream.errors import ExpiredError, ForbiddenError, MalformedError, SignatureError
from attestream.signing import TrustedKeys, key_id, public_key
from attestream.trust.publication import Signature
from schemas import subjects
from schemas.roles import Role
from schemas.trust import Roster, RosterKey, covered_bytes

MAX_DELAY_MS: Final = 300_000
"""Most milliseconds between the time in a signature and the time at which the message was stored or has come: publishing
takes moments, the rest is for clocks that differ. What is put on the bus once more later is refused by it."""


class Author(msgspec.Struct, frozen=True):
    """Who has signed a message."""

    role: Role
    name: str
    """Of the service or person in the roster."""
    key_id: str
    signed_at: int
    """Unix time in milliseconds."""


ANYBODY: Final = Author(role=Role.ADMIN, name="", key_id="", signed_at=0)
"""The author of every message where nothing is signed or checked."""


class UnknownKeyError(SignatureError):
    """A key that the roster does not have: a newer roster may."""


class Keyring:
    """One version of a roster.

    :raises MalformedError: when an entry is not the key that it says, or two are the same key.
    :raises UnsupportedError: when a key is of a kind that is not supported.
    """

    def __init__(self, roster: Roster) -> None:
        self.installation = roster.installation
        self.version = roster.version
        self.roster = roster
        self._entries: dict[str, RosterKey] = {}
        keys = []
        for entry in roster.keys:
            key = public_key(entry.public_key)
            if key_id(key) != entry.key_id:
                raise MalformedError(f"the roster's key {entry.key_id[:32]!r} is not the key of that id")
            if entry.key_id in self._entries:
                raise MalformedError(f"the roster has key {entry.key_id} twice: a key has one role")
            self._entries[entry.key_id] = entry
            keys.append(key)
        self._keys = TrustedKeys(keys)

    def entry(self, wanted: str) -> RosterKey | None:
        """Return the roster's entry of a key id, if it has one."""
        return self._entries.get(wanted)

    def verify(self, signature: Signature, subject: str, payload: bytes, *, received_at: int) -> Author:
        """Return who has signed ``payload`` for ``subject`` (as stored or as published).

        ``received_at`` is when the message was stored, or has come (Unix ms).

        :raises UnknownKeyError: when the roster does not have the key.
        :raises ExpiredError: when the key did not count at that time, or the time is too far from ``received_at``.
        :raises SignatureError: when the signature does not verify.
        """
        entry = self._entries.get(signature.key_id)
        if entry is None:
            raise UnknownKeyError(f"the roster has no key {signature.key_id}")
        check_time(entry, signature.signed_at, received_at)
        try:
            covered = covered_bytes(subjects.published(subject), signature.signed_at, payload)
        except UnicodeEncodeError as error:
            raise SignatureError("the subject is not ASCII") from error
        self._keys.verify(signature.key_id, signature.algorithm, covered, signature.signature)
        return Author(role=entry.role, name=entry.name, key_id=entry.key_id, signed_at=signature.signed_at)

    def of_role(self, role: Role) -> TrustedKeys:
        """Return the keys that have or had ``role``: for envelopes, whose time :func:`check_time` is asked about."""
        wanted = [public_key(entry.public_key) for entry in self._entries.values() if entry.role is role]
        return TrustedKeys(wanted)


def check_time(entry: RosterKey, signed_at: int, received_at: int) -> None:
    """Do nothing when what ``entry`` signs at ``signed_at`` and what comes at ``received_at`` counts (Unix ms).

    :raises ExpiredError: when it does not.
    """
    if abs(received_at - signed_at) > MAX_DELAY_MS:
        raise ExpiredError(
            f"{entry.name} signed it {(received_at - signed_at) / 1000:.0f} s before it came: "
            "it was sent again, or clocks differ"
        )
    if signed_at < entry.not_before:
        raise ExpiredError(f"key {entry.key_id} of {entry.name} did not count yet")
    if entry.not_after and signed_at > entry.not_after:
        raise ExpiredError(f"key {entry.key_id} of {entry.name} does not count any more")
    # The time in a signature is its author's word: one whose key is in strange hands would date it back.
    if entry.revoked_at and max(signed_at, received_at) >= entry.revoked_at:
        raise ExpiredError(f"key {entry.key_id} of {entry.name} was revoked", remedy="Use the holder's new key.")


def check_role(author: Author, roles: Collection[Role]) -> None:
    """Do nothing when ``author`` has one of ``roles``.

    :raises ForbiddenError: otherwise.
    """
    if author.role not in roles:
        wanted = " or ".join(sorted(roles)) or "nobody"
        raise ForbiddenError(f"{author.name} signs as {author.role}; this is for {wanted}")
