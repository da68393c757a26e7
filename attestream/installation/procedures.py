"""Replacing keys, step by step: on running servers first, then in the files, so that an interrupted step can be repeated."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attestream.credentials.nkey import Kind, NKey
from attestream.errors import BusError, ConfigError
from attestream.installation.accounts import Accounts, accounts
from attestream.installation.bus_keys import load_seed
from attestream.installation.live import publish_roster
from attestream.installation.places import Installation
from attestream.installation.rotation import (
    SIGNING,
    next_operator_key,
    pruned,
    resigned,
    rotate_signing_key,
    successor,
    take_issuer,
    take_operator_key,
)
from attestream.installation.servers import refresh_identities
from schemas.roles import Role


async def rotate_role(
    place: Installation, role: Role, urls: Sequence[str], *, overlap_s: int, only: str | None = None
) -> list[str]:
    """Replace the keys of ``role`` and return what was done, for people. ``only`` is ``bus`` or ``signing``, for one of two.

    :raises ConfigError: a key that is needed is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    done = []
    try:
        # The key that may be away comes first: without it nothing has happened yet.
        if only != "bus" and (role in SIGNING or only == "signing"):
            roster = rotate_signing_key(place, role, overlap_s=overlap_s, now_ms=time.time_ns() // 1_000_000)
            done.append(f"{place.service_key(role)}: a new signing key; the roster has version {roster.version}")
            done.append(await _published(place, urls))
        if only != "signing":
            now = int(time.time())
            until = now + overlap_s if overlap_s else 0
            issuer = NKey.generate(Kind.ACCOUNT)
            path = place.account_token(role)
            async with accounts(place, urls) as access:
                token = successor(place, await access.current(path), role, issuer, until=until, now=now)
                await access.put(path, token)
                fresh = take_issuer(place, role, issuer, token, now=now)
            done.append(f"{place.issuer(role)}: a new key that issues identities on the bus")
            done += [f"{place.credentials(each)}: a new identity" for each in fresh]
            done += _rendered(place)
    except OSError as error:
        raise ConfigError(f"the keys of {role} can not be replaced: {error}") from error
    if role is Role.AGENT:
        return [*done, "a registrar takes it up by itself once its file is replaced, where it runs on another machine too"]
    return [*done, f"start the {role} again where it runs, with its new files"]


async def rotate_bus_operator(place: Installation, urls: Sequence[str]) -> list[str]:
    """Do the next of two steps to replace the key that signs the bus's accounts, and return what was done, for people.

    :raises ConfigError: a key that is needed is not here, the accounts are out of reach, or a server does not know the key.
    :raises BusError: the bus refuses.
    """
    now = int(time.time())
    try:
        if not place.operator_next_seed.exists():
            fresh = next_operator_key(place, now=now)
            return [
                f"{place.operator_next_seed}: the next key, {fresh.public}",
                *_rendered(place),
                "start every server of the bus again, one after the other, with its new configuration",
                "(`attestream up` makes its own); then give this command once more",
            ]
        fresh = load_seed(place.operator_next_seed, Kind.OPERATOR, "the bus operator's next signing key")
        load_seed(place.operator_seed, Kind.OPERATOR, "the bus operator's own key")
        async with accounts(place, urls) as access:
            await _see_that_it_is_known(access, fresh.public)
            for path in access.files:
                await access.put(path, resigned(await access.current(path), fresh, now=now))
        take_operator_key(place, now=now)
    except OSError as error:
        raise ConfigError(f"the bus operator's key can not be replaced: {error}") from error
    return [
        f"{place.operator_signing_seed}: the new key; every account is signed with it",
        *_rendered(place),
        "a registrar takes it up by itself once its file is replaced, where it runs on another machine too",
    ]


async def prune_accounts(place: Installation, urls: Sequence[str]) -> list[str]:
    """Remove issuing keys whose time is over, and return what was done, for people.

    :raises ConfigError: the operator's signing key is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    done = []
    try:
        async with accounts(place, urls) as access:
            for path in access.files:
                account = await access.current(path)
                token = pruned(place, account, now=int(time.time()))
                if token is not None:
                    await access.put(path, token)
                    done.append(f"account {account.name}: keys whose time is over are gone")
    except OSError as error:
        raise ConfigError(f"the accounts can not be changed: {error}") from error
    return [*done, *_rendered(place)] if done else ["no key's time is over"]


async def _see_that_it_is_known(access: Accounts, key: str) -> None:
    if access.link is None:
        return
    servers = await access.link.trusted_signers()
    if strangers := sorted(name for name, keys in servers.items() if key not in keys):
        raise ConfigError(
            f"these servers do not know the new key yet, and would shut everybody out: {', '.join(strangers)}",
            remedy="Start them again with their new configuration, then give this command once more.",
        )


async def _published(place: Installation, urls: Sequence[str]) -> str:
    try:
        await publish_roster(place, urls)
    except BusError as error:
        return f"the bus does not have the new roster yet ({error.message}): `attestream keys publish` puts it there"
    return "the bus has the new roster"


def _rendered(place: Installation) -> list[str]:
    return [f"{path}: names the new keys, for the next start of its server" for path in refresh_identities(place)]
