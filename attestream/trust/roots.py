"""Root keys that come one after another: each vouches for its successor, so that whoever knows the first believes the last.

A roster carries the vouchers since the oldest root key that somebody may still hold (:attr:`schemas.trust.Roster.vouchers`).
A root key that has vouched for another one counts no more: whoever steals it later makes no roster.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attestream.errors import MalformedError, SignatureError
from attestream.signing import Signer, TrustedKeys, key_id, public_key
from schemas.base import SchemaError, decode
from schemas.events import Signed
from schemas.trust import RootVoucher, Roster

MAX_VOUCHERS: Final = 64


class UnknownRootError(SignatureError):
    """A roster by a root key that is not known, and for which none that is has vouched."""

    remedy = "Ask for the installation's root key, `trusted/root.pem`, and compare it before you name it in `root_keys`."


def vouch(root: Signer, successor_pem: str, installation: str, *, now: int, until: int) -> Signed:
    """Return the word of ``root`` for its successor; rosters carry it ``until`` then. Both times are Unix ms."""
    return root.sign(RootVoucher(installation=installation, successor=successor_pem, at=now, until=until))


def follow(roots: TrustedKeys, vouchers: Iterable[Signed], installation: str) -> TrustedKeys:
    """Return the keys that count once ``roots`` have given their place to those for whom they vouch.

    Vouchers by keys that are not known are passed over: they belong to a time before ``roots``.

    :raises SignatureError: a voucher was altered, or was made for another installation.
    :raises MalformedError: one vouches for no key.
    """
    for signed in vouchers:
        if signed.key_id not in roots.key_ids:
            continue
        voucher = roots.open(signed, RootVoucher)
        if voucher.installation != installation:
            raise SignatureError(f"a root key vouches for another one in installation {voucher.installation[:64]!r} alone")
        roots = roots.succeeded(signed.key_id, public_key(voucher.successor))
    return roots


def successions(roster: Roster) -> list[tuple[str, str]]:
    """Return who has given its place to whom by the vouchers of a roster that was verified: ids of keys, the oldest first.

    :raises MalformedError: a voucher vouches for no key.
    """
    found = []
    for signed in roster.vouchers:
        try:
            voucher = decode(signed.payload, RootVoucher)
        except SchemaError as error:
            raise MalformedError(f"the roster carries a voucher that can not be read: {error}") from error
        found.append((signed.key_id, key_id(public_key(voucher.successor))))
    return found


def open_roster(signed: Signed, roots: TrustedKeys) -> tuple[Roster, TrustedKeys]:
    """Return the roster in an envelope, and the root keys that count from now on.

    :raises UnknownRootError: it is signed by none of ``roots`` and by none that follows from them.
    :raises SignatureError: the signature does not verify.
    :raises MalformedError: what was signed is no roster.
    """
    try:
        claimed = decode(signed.payload, Roster)
    except SchemaError:
        return roots.open(signed, Roster), roots
    if len(claimed.vouchers) > MAX_VOUCHERS:
        raise MalformedError(f"the roster has more than {MAX_VOUCHERS} vouchers")
    roots = follow(roots, claimed.vouchers, claimed.installation)
    if signed.key_id not in roots.key_ids:
        raise UnknownRootError(f"the roster is signed by {signed.key_id[:64]!r}, which is no root key that counts here")
    return roots.open(signed, Roster), roots
