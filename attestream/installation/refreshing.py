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
from attestream.credentials.token import Token, read, reissued
from attestream.errors import BusError, ConfigError
from attestream.installation.accounts import Accounts, accounts
from attestream.installation.bus_accounts import guest_limits, home_limits
from attestream.installation.bus_keys import load_seed, load_token, system_template
from attestream.installation.files import PUBLIC, replace
from attestream.installation.places import SYSTEM, Installation
from schemas.accounts import GUESTS, HOME, account_of
from schemas.roles import Role


async def refresh_accounts(place: Installation, urls: Sequence[str]) -> list[str]:
    """Give every account the permissions of this version, and return the names of those that had others.

    :raises ConfigError: the operator's signing key is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    try:
        async with accounts(place, urls) as access:
            return await _refresh(access, urls)
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


async def _refresh(access: Accounts, urls: Sequence[str] = ()) -> list[str]:
    place = access.place
    home = load_token(place.account_token(Role.VERIFIER)).subject
    done = []
    # That of the services first: the others import what it exports.
    paths = {HOME: place.account_token(Role.VERIFIER)} | {account_of(guest): place.account_token(guest) for guest in GUESTS}
    for name, path in {**paths, SYSTEM: place.system_token}.items():
        current = await access.current(path)
        wanted = _wanted(current, name, home)
        if wanted == current.nats:
            continue
        signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
        # Servers keep the token with the later time.
        now = max(int(time.time()), current.issued_at + 1)
        token = reissued(current, wanted, signing, now)
        try:
            await access.put(path, token)
        except BusError:
            # Servers close the connections of those whose rights have changed: our own, before they answer.
            if name != SYSTEM:
                raise
            async with accounts(place, urls) as again:
                if await again.current(path) != read(token):
                    raise
            replace(path, f"{token}\n".encode(), PUBLIC)
        done.append(name)
    return done


def _wanted(current: Token, name: str, home: str) -> dict[str, Any]:
    claims = {**current.nats, "signing_keys": [_scope(one) for one in current.nats.get("signing_keys", [])]}
    if name == SYSTEM:
        return claims
    if name == HOME:
        return {**claims, "limits": home_limits(), "exports": list(exports())}
    # The account of a guest bears its role's name.
    guest = Role(name)
    return {**claims, "limits": guest_limits(guest), "imports": list(imports(guest, home))}


def _scope(scope: dict[str, Any]) -> dict[str, Any]:
    """Return a signing key with what its role may do now; one that is retired has its role before its end."""
    granted = str(scope["role"]).partition(" ")[0]
    if granted == SYSTEM:
        return {**scope, "template": system_template()}
    return {**scope, "template": template(Role(granted))} if granted in set(Role) else scope
