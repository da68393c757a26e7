"""Who may say what, above the bus: the roster of keys, and the signature that travels with a message.

A message that must be believed carries the header ``Attestream-Signature: <key id>.<algorithm>.<signed at>.<signature>``;
the signature (base64url without padding) covers :func:`covered_bytes`, and with them the subject on which its author
published. A copy under another subject, or with another payload or time, does not verify. The header of a reply covers the
place that the question names in ``Attestream-Reply-To`` (:func:`place_of_answer`), so that an old answer can not be played
again, nor the answer to one question as that to another.
"""

from __future__ import annotations

import base64
import hashlib

from schemas.base import Message, Part
from schemas.events import Signed
from schemas.roles import Role


class RosterKey(Part, kw_only=True, frozen=True):
    """A key whose signatures count, for one role and between two times (Unix ms)."""

    key_id: str
    """First 16 hex digits of SHA-256 over the SubjectPublicKeyInfo in DER."""
    role: Role
    """What its signatures count for."""
    name: str
    """Of the service or of the person: unique among those that are not revoked, except for rotated keys of one name."""
    public_key: str
    """SubjectPublicKeyInfo in PEM."""
    bus_key: str = ""
    """Public NKey with which the same holder connects; empty for keys that only sign."""
    not_before: int = 0
    """What is signed before this does not count; 0: it always did."""
    not_after: int = 0
    """What is signed after this does not count; 0: no end."""
    revoked_at: int = 0
    """What is signed, stored or comes after this does not count; 0: not revoked. What was there before still does."""
    changed_by: str = ""
    """Who has put it into the roster or, once that is done, revoked it."""


class RootVoucher(Message, kw_only=True, frozen=True, tag="root-voucher"):
    """The word of a root key for the next one, which has its place from then on. Travels in a
    :class:`schemas.events.Signed` envelope by the former."""

    installation: str
    """The one in which it counts."""
    successor: str
    """Public key: SubjectPublicKeyInfo in PEM."""
    at: int
    """Unix time in milliseconds."""
    until: int
    """Unix time in milliseconds until which rosters carry it: whoever has seen none by then must be given the new key."""


class Roster(Message, kw_only=True, frozen=True, tag="roster"):
    """All keys of an installation. Travels in a :class:`schemas.events.Signed` envelope by a root key."""

    installation: str
    """Random id of the installation: two can not share a bus by accident."""
    version: int
    """Raised with each change; an older one is not accepted after a newer one."""
    issued_at: int
    """Unix time in milliseconds."""
    keys: list[RosterKey]
    """Those that count or have counted."""
    policy_approvals: int = 1
    """People that a new version of a policy needs, its author among them: 1 or 2."""
    approvals_by: str = ""
    """Who has said that."""
    vouchers: list[Signed] = []
    """Root keys for their successors, the oldest first."""


def covered_bytes(subject: str, signed_at: int, payload: bytes) -> bytes:
    """Return what the signature of a message on ``subject`` covers; ``signed_at`` is in Unix milliseconds."""
    return b"attestream/publication/1\x00" + subject.encode("ascii") + b"\x00" + signed_at.to_bytes(8, "big") + payload


def place_of_answer(inbox: str, secret: str, subject: str, question: bytes) -> str:
    """Return what the signature of the answer to ``question``, asked on ``subject``, is made for.

    ``secret`` is random: nobody has an answer signed for a question that has not been asked yet.
    """
    return f"{inbox}.{secret}.{_digest(subject, question)}"


def is_place_of_answer(place: str, subject: str, question: bytes) -> bool:
    """Return whether ``place`` was made for ``question``: whoever carries the question can give it another place."""
    return place.rpartition(".")[2] == _digest(subject, question)


def _digest(subject: str, question: bytes) -> str:
    digest = hashlib.sha256(subject.encode() + b"\x00" + question).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
