"""The root key is replaced: the old one vouches for the new one in the roster, so that nobody has to be told."""

from __future__ import annotations

from pathlib import Path

from attestream.errors import ConfigError
from attestream.installation.files import PUBLIC, make_directory, replace, write_new
from attestream.installation.people import ROOT
from attestream.installation.places import Installation
from attestream.installation.roster import load_root, load_roster, signed_roster, write_roster
from attestream.signing import Signer
from attestream.trust.roots import MAX_VOUCHERS, vouch
from attestream.trust.roster import succeed, without_vouchers
from schemas.base import decode
from schemas.events import Signed
from schemas.trust import RootVoucher, Roster


def rotate_root(place: Installation, *, overlap_s: int, now_ms: int) -> Roster:
    """Give the installation a new root key, and return the roster that the old one vouches for it in.

    The old private key is gone afterwards; its public half stays in ``trusted/retired``, for what it has signed. Called
    again after an interruption, it goes on where it was.

    :raises ConfigError: the root key is not here, or has vouched for too many in a row.
    :raises SignatureError: the roster was not signed by the installation's root.
    :raises OSError: a file can not be written.
    """
    roster = load_roster(place)
    if not place.root_next.exists():
        load_root(place)
        Signer.generate(place.root_next)
    new = Signer.load(place.root_next)
    if signed_roster(place).key_id != new.key_id:
        old = load_root(place)
        if len(roster.vouchers) >= MAX_VOUCHERS:
            raise ConfigError("too many root keys are in their overlap", remedy="Run `attestream keys prune` first.")
        _retire(place, old)
        until = now_ms + 1000 * overlap_s
        voucher = vouch(old, new.public_pem, roster.installation, now=now_ms, until=until)
        roster = succeed(roster, voucher, now_ms)
        write_roster(place, roster, new)
    for path in (place.root_public, *sorted(place.operators.glob(f"*/{ROOT}"))):
        replace(path, new.public_pem.encode(), PUBLIC)
    # Last: until then the same command can be given again.
    place.root_next.replace(place.root_key)
    return roster


def prune_root(place: Installation, *, now_ms: int) -> Roster | None:
    """Take the vouchers whose time is over out of the roster, and return it; ``None`` when there is none.

    :raises ConfigError: the root key is not here.
    :raises SignatureError: the roster was not signed by the installation's root.
    :raises OSError: the roster can not be written.
    """
    roster = load_roster(place)
    over = [signed for signed in roster.vouchers if voucher_in(signed).until <= now_ms]
    if not over:
        return None
    pruned = without_vouchers(roster, over, now_ms)
    write_roster(place, pruned, load_root(place))
    return pruned


def voucher_in(signed: Signed) -> RootVoucher:
    """Return what a voucher says, once the roster around it was verified."""
    return decode(signed.payload, RootVoucher)


def _retire(place: Installation, old: Signer) -> None:
    kept: Path = place.retired_keys / f"root-{old.key_id}.pem"
    make_directory(kept.parent)
    if not kept.exists():
        write_new(kept, old.public_pem.encode(), PUBLIC)
