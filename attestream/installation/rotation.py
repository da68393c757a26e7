"""Keys are replaced while everything goes on: for a time the old and the new one both count.

On the bus, an account's token names the old issuing key beside the new one, with the time until which it stays; what the
role may do is the same for both. Above the bus, the roster gives the old signing key an end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import Token, operator_token, read, reissued
from attestream.errors import AttestreamError, ConfigError
from attestream.installation.bus_keys import SERVICES, issue, issue_system, load_seed, load_token, write_credentials
from attestream.installation.files import PUBLIC, replace, write_new
from attestream.installation.places import Installation
from attestream.installation.roster import load_root, load_roster, write_roster
from attestream.signing import Signer
from attestream.trust.roster import rotate
from schemas.roles import Role
from schemas.trust import Roster

SIGNING: Final = (Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER)
"""Services whose signing keys are in the roster."""

_UNTIL: Final = " until "


def successor(place: Installation, account: Token, role: str, issuer: NKey, *, until: int, now: int) -> str:
    """Return the next token of ``account``, in which ``issuer`` issues identities of ``role``.

    The keys that did so before go on until ``until`` (Unix seconds); 0 ends them and all that they issued.

    :raises ConfigError: the operator's signing key is not here, or the account has no such role.
    """
    signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
    scopes: list[dict[str, Any]] = list(account.nats.get("signing_keys", []))
    current = [scope for scope in scopes if scope["role"] == role]
    if not current:
        raise ConfigError(f"the account {account.name} has no key that issues identities of role {role}")
    retired = [{**scope, "role": f"{role}{_UNTIL}{until}"} for scope in current] if until else []
    others = [scope for scope in scopes if scope["role"] != role]
    if not until:
        others = [scope for scope in others if not scope["role"].startswith(f"{role}{_UNTIL}")]
    keys = [*others, *retired, {**current[0], "key": issuer.public}]
    return reissued(account, {**account.nats, "signing_keys": keys}, signing, _after(account, now))


def pruned(place: Installation, account: Token, *, now: int) -> str | None:
    """Return the next token of ``account`` without keys whose time is over; ``None`` when it has none.

    :raises ConfigError: the operator's signing key is not here.
    """
    scopes: list[dict[str, Any]] = list(account.nats.get("signing_keys", []))
    kept = [scope for scope in scopes if not 0 < end_of(scope["role"]) <= now]
    if len(kept) == len(scopes):
        return None
    signing = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
    return reissued(account, {**account.nats, "signing_keys": kept}, signing, _after(account, now))


def end_of(scope_role: str) -> int:
    """Return until when a signing key of an account stays (Unix seconds); 0: it is the present one."""
    _, found, end = scope_role.partition(_UNTIL)
    return int(end) if found and end.isdigit() else 0


def take_issuer(place: Installation, role: Role, issuer: NKey, token: str, *, now: int) -> list[Role]:
    """Write what :func:`successor` made, after the servers have taken it, and issue the role's own identity anew.

    Returns the services whose credentials are new.

    :raises OSError: a file can not be written.
    """
    replace(place.account_token(role), f"{token}\n".encode(), PUBLIC)
    replace(place.issuer(role), f"{issuer.seed}\n".encode())
    if role not in SERVICES:
        return []
    write_credentials(issue(place, role, str(role), now=now), place.credentials(role), again=True)
    return [role]


def take_system_issuer(place: Installation, issuer: NKey, token: str, *, now: int) -> None:
    """Do as :func:`take_issuer` for the bus's own account.

    :raises OSError: a file can not be written.
    """
    replace(place.system_token, f"{token}\n".encode(), PUBLIC)
    replace(place.system_issuer, f"{issuer.seed}\n".encode())
    write_credentials(issue_system(place, str(Role.REGISTRAR), now=now), place.system_credentials, again=True)


def rotate_signing_key(place: Installation, role: Role, *, overlap_s: int, now_ms: int) -> Roster:
    """Give a service a new signing key, and the roster that says so. What the old key signs counts for ``overlap_s`` more.

    :raises ConfigError: the service signs nothing, or the root key is not here.
    :raises OSError: a file can not be written.
    """
    if role not in SIGNING:
        raise ConfigError(f"{role} has no signing key", remedy=f"Those that sign: {', '.join(SIGNING)}.")
    root = load_root(place)
    path = place.service_key(role)
    old = Signer.load(path)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    new = Signer.generate(fresh)
    if role is Role.NOTIFIER:
        # Revocations are read for as long as the stream keeps them.
        retired = place.trusted_keys / f"revocation-{old.key_id}.pem"
        if not retired.exists():
            write_new(retired, old.public_pem.encode(), PUBLIC)
        replace(place.trusted_keys / "revocation.pem", new.public_pem.encode(), PUBLIC)
    roster = rotate(load_roster(place), old.key_id, new.public_pem, now_ms, overlap_ms=1000 * overlap_s)
    write_roster(place, roster, root)
    # Last: a service that starts before signs with a key that still counts.
    fresh.replace(path)
    return roster


def next_operator_key(place: Installation, *, now: int) -> NKey:
    """Make the operator's next signing key, and the operator's token that names it beside the present one.

    Servers learn the token from their configuration when they start. Calling it again changes nothing.

    :raises ConfigError: the operator's key is not here.
    :raises OSError: a file can not be written.
    """
    waiting = place.operator_next_seed
    if waiting.exists():
        return load_seed(waiting, Kind.OPERATOR, "the bus operator's next signing key")
    operator = load_seed(place.operator_seed, Kind.OPERATOR, "the bus operator's own key")
    present = load_seed(place.operator_signing_seed, Kind.OPERATOR, "the bus operator's signing key")
    fresh = NKey.generate(Kind.OPERATOR)
    _write_operator(place, operator, [present.public, fresh.public], now)
    write_new(waiting, f"{fresh.seed}\n".encode())
    return fresh


def take_operator_key(place: Installation, *, now: int) -> None:
    """Make the next signing key the present one, and forget the old one, after all accounts were signed with the new one.

    :raises ConfigError: the operator's key is not here.
    :raises OSError: a file can not be written.
    """
    operator = load_seed(place.operator_seed, Kind.OPERATOR, "the bus operator's own key")
    fresh = load_seed(place.operator_next_seed, Kind.OPERATOR, "the bus operator's next signing key")
    _write_operator(place, operator, [fresh.public], now)
    place.operator_next_seed.replace(place.operator_signing_seed)


def resigned(account: Token, key: NKey, *, now: int) -> str:
    """Return the same account, signed by another key of the operator."""
    return reissued(account, account.nats, key, _after(account, now))


def checked_account(place: Installation, path: Path, stored: str | None) -> Token:
    """Return the newest token of an account: ``stored`` by the servers, or the installation's own, in ``path``.

    :raises ConfigError: ``stored`` is not a token of that account by this operator.
    """
    own = load_token(path)
    if stored is None:
        return own
    try:
        token = read(stored)
    except AttestreamError as error:
        raise ConfigError(f"the bus has an account that is none: {error.message}") from error
    if token.subject != own.subject or token.issuer not in operator_keys(place):
        raise ConfigError("the bus has an account that this installation's operator has not signed")
    # A server that has been taken over may show a token of long ago, in which a key counts that has been replaced since.
    # Signed anew it would be the newest everywhere.
    return max(token, own, key=lambda one: one.issued_at)


def operator_keys(place: Installation) -> set[str]:
    """Return the public keys with which the operator signs accounts.

    :raises ConfigError: the operator's token can not be read.
    """
    token = load_token(place.operator_token)
    return {token.subject, *token.nats.get("signing_keys", [])}


def _write_operator(place: Installation, operator: NKey, signing: list[str], now: int) -> None:
    old = load_token(place.operator_token)
    token = operator_token(
        operator, old.name, system_account=old.nats["system_account"], signing_keys=signing, now=_after(old, now)
    )
    replace(place.operator_token, f"{token}\n".encode(), PUBLIC)


def _after(old: Token, now: int) -> int:
    # Servers keep the token with the later time.
    return max(now, old.issued_at + 1)
