"""Bringing accounts up to what this version grants: an upgrade may have changed what a role may do.

The change begins with the tokens that the servers have, so that revocations, retired keys and whatever else is in them stay.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from attestream.credentials.nkey import Kind
from attestream.credentials.permissions import template
from attestream.credentials.sharing import exports, imports
from attestream.credentials.token import Token, reissued
from attestream.errors import ConfigError
from attestream.installation.accounts import Accounts, accounts
from attestream.installation.bus_accounts import LIMITS, home_limits
from attestream.installation.bus_keys import load_seed, load_token
from attestream.installation.places import Installation
from schemas.accounts import GUESTS, HOME, account_of
from schemas.roles import Role


async def refresh_accounts(place: Installation, urls: Sequence[str]) -> list[str]:
    """Give every account the permissions of this version, and return the names of those that had others.

    :raises ConfigError: the operator's signing key is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    try:
        async with accounts(place, urls) as access:
            return await _refresh(access)
    except OSError as error:
        raise ConfigError(f"the accounts can not be changed: {error}") from error


async def refresh_stopped(place: Installation) -> list[str]:
    """Do as :func:`refresh_accounts` for the embedded bus of ``place`` while it is down.

    :raises ConfigError: the operator's signing key is not here, or a token can not be used.
    """
    try:
        return await _refresh(Accounts(place, None))
    except OSError as error:
        raise ConfigError(f"the accounts can not be changed: {error}") from error


async def _refresh(access: Accounts) -> list[str]:
    place = access.place
    home = load_token(place.account_token(Role.VERIFIER)).subject
    done = []
    # That of the services first: the others import what it exports.
    names = {HOME: Role.VERIFIER} | {account_of(guest): guest for guest in GUESTS}
    for name, role in names.items():
        path = place.account_token(role)
        current = await access.current(path)
        wanted = _wanted(current, name, role, home)
        if wanted == current.nats:
            continue
        signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
        # Servers keep the token with the later time.
        now = max(int(time.time()), current.issued_at + 1)
        await access.put(path, reissued(current, wanted, signing, now))
        done.append(name)
    return done


def _wanted(current: Token, name: str, role: Role, home: str) -> dict[str, Any]:
    scopes = [_scope(one) for one in current.nats.get("signing_keys", [])]
    if name == HOME:
        return {**current.nats, "limits": home_limits(), "signing_keys": scopes, "exports": list(exports())}
    return {**current.nats, "limits": LIMITS, "signing_keys": scopes, "imports": list(imports(role, home))}


def _scope(scope: dict[str, Any]) -> dict[str, Any]:
    """Return a signing key with what its role may do now; one that is retired has its role before its end."""
    granted = str(scope["role"]).partition(" ")[0]
    return {**scope, "template": template(Role(granted))} if granted in set(Role) else scope
