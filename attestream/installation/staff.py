"""Who works with an installation: people come and go, and how many of them a policy needs. The root key signs all of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from attestream.credentials.account import MAX_REVOKED, revised
from attestream.credentials.nkey import Kind
from attestream.credentials.token import Token
from attestream.errors import ConfigError
from attestream.installation.accounts import accounts
from attestream.installation.bus_keys import load_seed
from attestream.installation.people import check_name, discard, equip, make_person
from attestream.installation.places import Installation
from attestream.installation.roster import load_root, load_roster, write_roster
from attestream.trust.roster import add_key, require_approvals, revoke_key
from schemas.roles import TENANTS, Role
from schemas.trust import Roster, RosterKey

_SKEW_S: Final = 3_600
"""By how much the clocks of servers may be behind: an entry outlives the identity that it ends by so much."""


def people(roster: Roster) -> list[RosterKey]:
    """Return the entries of people and their programs."""
    return [key for key in roster.keys if key.role in TENANTS]


def add_person(
    place: Installation,
    role: Role,
    name: str,
    urls: Sequence[str],
    *,
    by: str,
    now_ms: int,
    lifetime_ms: int = 0,
    directory: Path | None = None,
) -> RosterKey:
    """Make a person's identity, put it into the roster and return its entry. ``by`` is who does it, for the record.

    :raises ConfigError: the root key or an issuing key is not here, the name is taken, or a file can not be written.
    """
    root, roster = load_root(place), load_roster(place)
    taken = {key.name.lower() for key in roster.keys if not key.revoked_at}
    if check_name(name).lower() in taken:
        raise ConfigError(f"the roster has somebody called {name}", remedy="Choose another name, or revoke that one first.")
    where = directory if directory is not None else place.operator(name)
    try:
        made = make_person(place, role, name, now_ms=now_ms, lifetime_ms=lifetime_ms, directory=where, by=by)
        equip(place, name, where, urls)
        # Last: what was made and is not in the roster counts for nothing.
        write_roster(place, add_key(roster, made, now_ms), root)
    except OSError as error:
        raise ConfigError(f"{name} can not be added: {error}") from error
    return made


def revoke_person(place: Installation, name: str, *, by: str, now_ms: int) -> list[RosterKey]:
    """Revoke what somebody signs from now on, and return the entries; once that is done, it is done. The identity on the
    bus goes on: see :func:`disconnect`.

    :raises ConfigError: the root key is not here, nobody has that name, or a file can not be written.
    """
    root, before = load_root(place), load_roster(place)
    ended = [key for key in people(before) if key.name == name]
    if not ended:
        raise ConfigError(f"the roster has no {name[:80]!r}", remedy="See `attestream operators list`.")
    roster = before
    for key in ended:
        if not key.revoked_at:
            roster = revoke_key(roster, key.key_id, now_ms, by=by)
    try:
        if roster is not before:
            write_roster(place, msgspec.structs.replace(roster, version=before.version + 1), root)
        discard(place.operator(name))
    except OSError as error:
        raise ConfigError(f"{name} can not be revoked: {error}") from error
    return [key for key in people(roster) if key.name == name]


async def disconnect(place: Installation, ended: Sequence[RosterKey], urls: Sequence[str]) -> None:
    """End identities on the bus: its servers close the connections, and let nobody in with them again.

    Entries of identities that have expired are not needed any more, and go.

    :raises ConfigError: the operator's signing key or the bus's own credentials are not here, the bus is out of reach, or
        the account has as many revoked identities as it can.
    :raises BusError: the bus refuses.
    """
    ends = {key.bus_key: key.not_after for key in load_roster(place).keys if key.bus_key and key.not_after}
    signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
    try:
        async with accounts(place, urls) as access:
            for key in ended:
                path = place.account_token(key.role)
                current = await access.current(path)
                now = int(time.time())
                # Servers keep the token with the later time.
                issued = max(now, current.issued_at + 1)
                token = revised(current, signing, revoke=_void(current, key, ends, now), since=sys.maxsize, now=issued)
                if token is not None:
                    await access.put(path, token)
    except OSError as error:
        raise ConfigError(f"the accounts can not be changed: {error}") from error


def _void(account: Token, key: RosterKey, ends: Mapping[str, int], now: int) -> dict[str, int]:
    """Return what an account has to say of revoked identities when that of ``key`` is one; ``ends`` are in Unix ms."""
    there: dict[str, int] = account.nats.get("revocations") or {}
    wanted = {one: at for one, at in there.items() if one not in ends or ends[one] // 1000 + _SKEW_S > now}
    wanted[key.bus_key] = max(now, wanted.get(key.bus_key, 0))
    if len(wanted) > MAX_REVOKED:
        raise ConfigError(
            f"the account {account.name} has {MAX_REVOKED} revoked identities that have no end",
            remedy=f"Replace the key that has issued them: `attestream keys rotate {key.role} --only bus --at-once`.",
        )
    return wanted


def set_approvals(place: Installation, number: int, *, by: str, now_ms: int) -> Roster:
    """Say how many people a new version of a policy needs, 1 or 2, and return the roster.

    :raises ConfigError: the root key is not here, or the roster can not be written.
    """
    root, roster = load_root(place), load_roster(place)
    changed = require_approvals(roster, number, now_ms, by=by)
    try:
        write_roster(place, changed, root)
    except OSError as error:
        raise ConfigError(f"the roster can not be written: {error}") from error
    return changed
