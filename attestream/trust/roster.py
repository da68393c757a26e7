"""Making and changing rosters. Each change is a new roster with the next version; a root key signs it (:func:`sign`)."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

import msgspec

from attestream.errors import RefusedError
from attestream.signing import Signer, key_id, public_key
from schemas.events import EventKind, Signed
from schemas.roles import TENANTS, Role
from schemas.trust import Roster, RosterKey


class Change(enum.Enum):
    """What has become of a key between two rosters."""

    ADDED = enum.auto()
    REVOKED = enum.auto()


def sign(roster: Roster, root: Signer) -> Signed:
    """Return ``roster`` as it travels and is stored."""
    return root.sign(roster)


def entry(
    public_pem: str,
    role: Role,
    name: str,
    *,
    not_before: int = 0,
    not_after: int = 0,
    bus_key: str = "",
    by: str = "",
) -> RosterKey:
    """Return the roster's entry for a public key in PEM; ``by`` is who puts it there.

    :raises MalformedError: when it is not a public key.
    :raises UnsupportedError: when it is neither Ed25519 nor RSA with 2048 bits or more.
    """
    return RosterKey(
        key_id=key_id(public_key(public_pem)),
        role=role,
        name=name,
        public_key=public_pem,
        bus_key=bus_key,
        not_before=not_before,
        not_after=not_after,
        changed_by=by,
    )


def initial(installation: str, keys: Iterable[RosterKey], now: int) -> Roster:
    """Return the first roster of an installation; ``now`` is Unix ms."""
    return _following(Roster(installation=installation, version=0, issued_at=now, keys=[]), list(keys), now)


def add_key(roster: Roster, key: RosterKey, now: int) -> Roster:
    """Return ``roster`` with one more key.

    :raises RefusedError: when it has that key, or another holder has that name.
    """
    if any(other.key_id == key.key_id for other in roster.keys):
        raise RefusedError(f"the roster has key {key.key_id} already", remedy="Make a new key; none comes back.")
    if any(other.name == key.name and other.role is not key.role and not other.revoked_at for other in roster.keys):
        raise RefusedError(f"{key.name} is in the roster with another role", remedy="Choose another name.")
    return _following(roster, [*roster.keys, key], now)


def revoke_key(roster: Roster, wanted: str, now: int, *, by: str = "") -> Roster:
    """Return ``roster`` with the key of id ``wanted`` revoked from ``now`` (Unix ms) on; ``by`` is who does it.

    :raises RefusedError: when it has no such key, or that is revoked already.
    """
    if not any(key.key_id == wanted and not key.revoked_at for key in roster.keys):
        raise RefusedError(f"the roster has no key {wanted[:32]} that counts", remedy="See `attestream keys list`.")
    changed = [
        msgspec.structs.replace(key, revoked_at=now, changed_by=by) if key.key_id == wanted else key for key in roster.keys
    ]
    return _following(roster, changed, now)


def require_approvals(roster: Roster, number: int, now: int, *, by: str = "") -> Roster:
    """Return ``roster`` in which a new version of a policy needs ``number`` people, 1 or 2; ``by`` is who does it.

    :raises RefusedError: when it is another number.
    """
    if number not in (1, 2):
        raise RefusedError(f"a policy can not need {number} people", remedy="Choose 1 or 2.")
    return _following(msgspec.structs.replace(roster, policy_approvals=number, approvals_by=by), roster.keys, now)


def rotate(roster: Roster, wanted: str, public_pem: str, now: int, *, overlap_ms: int) -> Roster:
    """Return ``roster`` with a new key for the holder of key ``wanted``, whose old key counts for ``overlap_ms`` more.

    :raises RefusedError: when it has no such key, that is revoked, or the new key is in it already.
    """
    old = next((key for key in roster.keys if key.key_id == wanted and not key.revoked_at), None)
    if old is None:
        raise RefusedError(f"the roster has no key {wanted[:32]} that counts", remedy="See `attestream keys list`.")
    end = min(old.not_after or now + overlap_ms, now + overlap_ms)
    ending = msgspec.structs.replace(old, not_after=end)
    rest = [ending if key is old else key for key in roster.keys]
    new = entry(public_pem, old.role, old.name, bus_key=old.bus_key)
    return add_key(msgspec.structs.replace(roster, keys=rest), new, now)


def succeed(roster: Roster, voucher: Signed, now: int) -> Roster:
    """Return ``roster`` with the word of its root key for the next one, which has to sign it; ``now`` is Unix ms."""
    return _following(msgspec.structs.replace(roster, vouchers=[*roster.vouchers, voucher]), roster.keys, now)


def without_vouchers(roster: Roster, over: Collection[Signed], now: int) -> Roster:
    """Return ``roster`` without the vouchers ``over``; ``now`` is Unix ms."""
    kept = [voucher for voucher in roster.vouchers if voucher not in over]
    return _following(msgspec.structs.replace(roster, vouchers=kept), roster.keys, now)


def differences(before: Roster | None, after: Roster) -> list[tuple[EventKind, RosterKey]]:
    """Return what has changed from one roster to another, by the kinds of its events."""
    known = {key.key_id: key for key in before.keys} if before is not None else {}
    found: list[tuple[EventKind, RosterKey]] = []
    for key in after.keys:
        old = known.pop(key.key_id, None)
        if old is None:
            found.append((_kind(key, Change.ADDED), key))
        if key.revoked_at and (old is None or not old.revoked_at):
            found.append((_kind(key, Change.REVOKED), key))
    # A key that a roster leaves out does not count any more either.
    return found + [(_kind(key, Change.REVOKED), key) for key in known.values()]


def _kind(key: RosterKey, change: Change) -> EventKind:
    person = key.role in TENANTS
    if change is Change.ADDED:
        return EventKind.OPERATOR_ADDED if person else EventKind.KEY_ADDED
    return EventKind.OPERATOR_REVOKED if person else EventKind.KEY_REVOKED


def _following(roster: Roster, keys: list[RosterKey], now: int) -> Roster:
    return msgspec.structs.replace(roster, version=roster.version + 1, issued_at=now, keys=keys)
