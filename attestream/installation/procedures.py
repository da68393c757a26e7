"""Replacing keys, step by step: on running servers first, then in the files, so that an interrupted step can be repeated."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Sequence
from typing import Final

from attestream.credentials.nkey import Kind, NKey
from attestream.errors import AttestreamError, BusError, ConfigError
from attestream.installation.accounts import Accounts, accounts
from attestream.installation.bus_keys import load_seed
from attestream.installation.certificate_authority import introduce, is_introduced, next_authority, prune_authorities, take
from attestream.installation.cluster_secret import prune_cluster_secret, rotate_cluster_secret
from attestream.installation.live import publish_roster, take_roster
from attestream.installation.places import SYSTEM, Installation
from attestream.installation.renewal import reload_embedded
from attestream.installation.root_key import prune_root, rotate_root
from attestream.installation.rotation import (
    SIGNING,
    next_operator_key,
    pruned,
    resigned,
    rotate_signing_key,
    successor,
    take_issuer,
    take_operator_key,
    take_system_issuer,
)
from attestream.installation.servers import refresh_identities
from schemas.roles import Role

_OWN_OVERLAP_S: Final = 60
"""Seconds for which the identity that replaces the key of the bus's own account must go on, to be replaced itself."""


async def rotate_role(
    place: Installation, role: Role, urls: Sequence[str], *, overlap_s: int, only: str | None = None
) -> list[str]:
    """Replace the keys of ``role`` and return what was done, for people. ``only`` is ``bus`` or ``signing``, for one of two.

    :raises ConfigError: a key that is needed is not here, or the accounts are out of reach.
    :raises SupersededError: the roster was changed elsewhere at the same moment.
    :raises BusError: the bus refuses.
    """
    done = []
    try:
        # The key that may be away comes first: without it nothing has happened yet.
        if only != "bus" and (role in SIGNING or only == "signing"):
            await _begin_with_the_newest(place, urls)
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


async def rotate_root_key(place: Installation, urls: Sequence[str], *, overlap_s: int) -> list[str]:
    """Replace the root key and return what was done, for people. The bus may be away.

    :raises ConfigError: the root key is not here, or a file can not be written.
    :raises SupersededError: the roster was changed elsewhere at the same moment.
    """
    try:
        await _begin_with_the_newest(place, urls)
        roster = rotate_root(place, overlap_s=overlap_s, now_ms=time.time_ns() // 1_000_000)
    except OSError as error:
        raise ConfigError(f"the root key can not be replaced: {error}") from error
    return [
        f"{place.root_key}: the new root key; the roster has version {roster.version}, and the old key vouches in it",
        await _published(place, urls),
        f"who has seen this roster believes the new key alone; give {place.root_public} to whoever comes new",
    ]


async def rotate_system(place: Installation, urls: Sequence[str], *, overlap_s: int) -> list[str]:
    """Replace the key that issues identities of the bus's own account and return what was done, for people.

    :raises ConfigError: a key that is needed is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    now = int(time.time())
    issuer = NKey.generate(Kind.ACCOUNT)
    path = place.system_token
    try:
        async with accounts(place, urls) as access:
            until = now + (overlap_s or _OWN_OVERLAP_S)
            token = successor(place, await access.current(path), SYSTEM, issuer, until=until, now=now)
            await access.put(path, token)
            take_system_issuer(place, issuer, token, now=now)
        if not overlap_s:
            # Only who comes with the new identity can end the old one.
            async with accounts(place, urls) as access:
                account = await access.current(path)
                if (alone := pruned(place, account, now=until)) is not None:
                    await access.put(path, alone)
        rendered = _rendered(place)
    except OSError as error:
        raise ConfigError(f"the bus's own key can not be replaced: {error}") from error
    return [
        f"{place.system_issuer}: a new key that issues identities of the bus's own account",
        f"{place.system_credentials}: a new identity; a registrar uses it when it connects next",
        *rendered,
    ]


def rotate_ca(place: Installation, *, overlap_s: int) -> list[str]:
    """Do the next of two steps to replace the certificate authority, and return what was done, for people.

    :raises ConfigError: a file can not be read or written.
    """
    now = dt.datetime.now(dt.UTC)
    try:
        if not is_introduced(place):
            files = introduce(place, now)
            reload_embedded(place)
            return [
                f"{next_authority(place).own.key}: the key of the next authority",
                *(f"{path}: has both certificates" for path in files),
                "copy each ca.pem to where it is used: servers (nats-server --signal reload), services, agents, people;",
                "it is read at the next connection. Then give this command once more",
            ]
        end = now + dt.timedelta(seconds=overlap_s)
        renewed, files = take(place, now, until=int(end.timestamp()))
    except OSError as error:
        raise ConfigError(f"the certificate authority can not be replaced: {error}") from error
    running = reload_embedded(place)
    return [
        *(f"{path}: the new authority comes first, the old one counts until {end:%Y-%m-%d}" for path in files),
        *(f"renewed {each.path}" for each in renewed),
        "the running bus reads it again" if running else "no bus of `attestream up` runs here",
        "copy servers' and clients' files to their machines, and reload each server: nats-server --signal reload",
    ]


def replace_cluster_secret(place: Installation, *, at_once: bool) -> list[str]:
    """Replace the cluster secret and return what was done, for people.

    :raises ConfigError: it is not here, or can not be written.
    """
    try:
        rotate_cluster_secret(place, at_once=at_once)
    except OSError as error:
        raise ConfigError(f"the cluster secret can not be replaced: {error}") from error
    kept = [] if at_once else [f"{place.cluster_secret_before}: the one before, for what was asked under it"]
    return [
        f"{place.cluster_secret}: a new secret",
        *kept,
        "verifiers take it up by themselves within seconds; copy the files to those on other machines, one after another",
    ]


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


async def prune(place: Installation, urls: Sequence[str]) -> list[str]:
    """Remove whatever has come to its time, and return what was done, for people.

    :raises ConfigError: a key that is needed is not here, or the accounts are out of reach.
    :raises BusError: the bus refuses.
    """
    done = await prune_accounts(place, urls)
    try:
        await _begin_with_the_newest(place, urls)
        roster = prune_root(place, now_ms=time.time_ns() // 1_000_000)
        if roster is not None:
            done.append(f"the roster has version {roster.version}, without vouchers of root keys whose time is over")
            done.append(await _published(place, urls))
        if files := prune_authorities(place, dt.datetime.now(dt.UTC)):
            reload_embedded(place)
            done += [f"{path}: without authorities whose time is over" for path in files]
        if prune_cluster_secret(place):
            done.append(f"{place.cluster_secret_before}: is gone")
    except OSError as error:
        raise ConfigError(f"the keys can not be pruned: {error}") from error
    return done or ["no key's time is over"]


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
    return [*done, *_rendered(place)] if done else []


async def _see_that_it_is_known(access: Accounts, key: str) -> None:
    if access.link is None:
        return
    servers = await access.link.trusted_signers()
    if strangers := sorted(name for name, keys in servers.items() if key not in keys):
        raise ConfigError(
            f"these servers do not know the new key yet, and would shut everybody out: {', '.join(strangers)}",
            remedy="Start them again with their new configuration, then give this command once more.",
        )


async def _begin_with_the_newest(place: Installation, urls: Sequence[str]) -> None:
    # That the bus is away, or refuses, is said when the change is to be published.
    with contextlib.suppress(AttestreamError):
        await take_roster(place, urls)


async def _published(place: Installation, urls: Sequence[str]) -> str:
    try:
        await publish_roster(place, urls)
    except BusError as error:
        return f"the bus does not have the new roster yet ({error.message}): `attestream keys publish` puts it there"
    return "the bus has the new roster"


def _rendered(place: Installation) -> list[str]:
    return [f"{path}: names the new keys, for the next start of its server" for path in refresh_identities(place)]
