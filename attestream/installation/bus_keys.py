"""Who vouches for whom on the bus: operator, accounts, a scoped signing key for each role, and the users that they issue."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from attestream.credentials.document import Credentials, write
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.permissions import narrow
from attestream.credentials.token import Token, account_token, operator_token, read, role_tag, scope, user_token
from attestream.errors import AttestreamError, ConfigError
from attestream.installation.bus_accounts import LIMITS, account_tokens
from attestream.installation.files import PUBLIC, make_directory, read_secret, read_text, replace, write_new
from attestream.installation.places import SYSTEM, Installation
from schemas.accounts import account_of
from schemas.roles import GRANTS, Role, inbox

SERVICES: Final = (Role.PROVISIONER, Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER, Role.GATEWAY, Role.ENROLMENT)
"""Roles whose identities an installation is made with; the name of each is that of its role."""


def make_bus_keys(place: Installation, *, name: str, now: int) -> None:
    """Make every key, the tokens, and the services' credentials. ``now`` is in Unix seconds.

    :raises ConfigError: one of the files exists.
    :raises OSError: one can not be written.
    """
    operator, signing = NKey.generate(Kind.OPERATOR), NKey.generate(Kind.OPERATOR)
    system = NKey.generate(Kind.ACCOUNT)
    issuers = {granted.role: NKey.generate(Kind.ACCOUNT) for granted in GRANTS}
    system_issuer = NKey.generate(Kind.ACCOUNT)
    folders = (place.issuer(Role.AGENT).parent, place.account_token(Role.AGENT).parent)
    for folder in (place.bus_keys, *folders, place.credentials_directory):
        make_directory(folder)
    seeds = {place.operator_seed: operator, place.operator_signing_seed: signing, place.system_issuer: system_issuer}
    seeds |= {place.issuer(role): key for role, key in issuers.items()}
    for path, key in seeds.items():
        write_new(path, f"{key.seed}\n".encode())
    tokens = {
        place.operator_token: operator_token(
            operator, name, system_account=system.public, signing_keys=[signing.public], now=now
        ),
        place.system_token: account_token(
            signing,
            system.public,
            SYSTEM,
            limits=LIMITS,
            signing_keys=[scope(system_issuer.public, SYSTEM, system_template())],
            revocations={},
            now=now,
        ),
    }
    accounts = account_tokens(signing, issuers, now)
    tokens |= {place.account_token(role): accounts[account_of(role)] for role in issuers}
    for path, token in tokens.items():
        write_new(path, f"{token}\n".encode(), PUBLIC)
    for role in SERVICES:
        write_credentials(issue(place, role, str(role), now=now), place.credentials(role))
    write_credentials(issue_system(place, str(Role.REGISTRAR), now=now), place.system_credentials)


def issue(
    place: Installation, role: Role, name: str, *, now: int, expires_at: int = 0, key: NKey | None = None
) -> Credentials:
    """Return a new identity on the bus; ``name`` must be one subject token. Times are in Unix seconds, 0: for ever.

    :raises ConfigError: the issuer's key or the account's token is not here.
    """
    issuer = load_seed(place.issuer(role), Kind.ACCOUNT, f"the key that issues identities of role {role}")
    user = key or NKey.generate(Kind.USER)
    account = load_token(place.account_token(role)).subject
    token = user_token(issuer, user.public, name, account=account, now=now, expires_at=expires_at, tags=[role_tag(role)])
    return Credentials(token, user)


def issue_system(place: Installation, name: str, *, now: int) -> Credentials:
    """Return a new identity of the bus's own account, which may change the other accounts on running servers.

    :raises ConfigError: the issuer's key or the account's token is not here.
    """
    issuer = load_seed(place.system_issuer, Kind.ACCOUNT, "the key that issues identities of the bus's own account")
    user = NKey.generate(Kind.USER)
    account = load_token(place.system_token).subject
    tags = [role_tag(Role.REGISTRAR)]
    return Credentials(user_token(issuer, user.public, name, account=account, now=now, tags=tags), user)


def write_credentials(credentials: Credentials, path: Path, *, again: bool = False) -> None:
    """Write an identity to a file of its own; over an older one only if ``again``.

    :raises ConfigError: the file exists.
    :raises OSError: it can not be written.
    """
    (replace if again else write_new)(path, write(credentials).encode())


def load_seed(path: Path, kind: Kind, what: str) -> NKey:
    """Return the private key in a file.

    :raises ConfigError: it is not there, may be read by others, or is no key of ``kind``.
    """
    text = read_secret(path, what)
    try:
        key = NKey.from_seed(text)
    except AttestreamError as error:
        raise ConfigError(f"{path}: {error.message}") from error
    if key.kind is not kind:
        raise ConfigError(f"{path} holds a key of another kind")
    return key


def load_token(path: Path) -> Token:
    """Return what the token in a file says.

    :raises ConfigError: it can not be read, or is no token.
    """
    text = read_text(path, "a token of the bus")
    try:
        return read(text)
    except AttestreamError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def system_template() -> dict[str, Any]:
    """Return what identities of the bus's own account may do: those of registrars, and of commands on the installation."""
    return narrow(
        publish=[
            "$SYS.REQ.CLAIMS.UPDATE",
            "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP",
            "$SYS.REQ.SERVER.PING.VARZ",
            "$SYS.REQ.SERVER.PING.JSZ",
            "$SYS.REQ.SERVER.*.CONNZ",
            "$SYS.REQ.SERVER.*.KICK",
        ],
        subscribe=["$SYS.ACCOUNT.*.*", inbox(Role.REGISTRAR) + ".>"],
    )
