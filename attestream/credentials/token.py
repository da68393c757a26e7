"""JWTs of the bus, version 2: an operator vouches for accounts, an account's signing keys vouch for users.

A token is ``header.claims.signature`` in base64url without padding; the algorithm is always ``ed25519-nkey``
(``nats-io/jwt`` v2). Times are Unix seconds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from attestream.credentials.nkey import Kind, NKey, decode_public, verify
from attestream.errors import ExpiredError, MalformedError, SignatureError

MAX_TOKEN_BYTES: Final = 8 << 20
"""Longest token that is read: an account with as many revocations as the bus takes."""

NAME: Final = re.compile(r"[A-Za-z0-9_%-]{1,240}\Z", re.ASCII)
"""What can be a user's name: one subject token (``schemas.subjects.token`` of an agent's id)."""

_HEADER: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_UNLIMITED: Final = -1
_ROLE_TAG: Final = "role:"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says."""

    kind: str
    """``operator``, ``account`` or ``user``."""
    subject: str
    """Public NKey that it is about."""
    name: str
    issuer: str
    """Public NKey that signed it."""
    issued_at: int
    expires_at: int
    """0: never."""
    not_before: int = 0
    tags: tuple[str, ...] = ()
    """Words that its issuer has put on it, such as ``role:verifier``; the server does not read them."""
    nats: dict[str, Any]
    """The claims that only the bus reads."""


class _Header(msgspec.Struct):
    typ: str
    alg: str


class _Claims(msgspec.Struct, kw_only=True):
    sub: str
    iss: str
    iat: int
    nats: dict[str, Any]
    name: str = ""
    exp: int = 0
    nbf: int = 0


def operator_token(operator: NKey, name: str, *, system_account: str, signing_keys: list[str], now: int) -> str:
    """Return the token of an operator, signed by itself."""
    nats: dict[str, Any] = {"type": "operator", "version": 2, "system_account": system_account}
    if signing_keys:
        nats["signing_keys"] = signing_keys
    return _sign({"sub": operator.public, "name": name, "nats": nats}, operator, now)


def account_token(
    issuer: NKey,
    account: str,
    name: str,
    *,
    limits: dict[str, Any],
    signing_keys: list[Any],
    revocations: dict[str, int],
    now: int,
    exports: Sequence[dict[str, Any]] = (),
    imports: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the token of an account.

    ``signing_keys`` holds public keys and scopes (:func:`scope`). ``revocations`` is user key -> Unix seconds: what was
    issued to that key until then is void. ``exports`` and ``imports`` come from :mod:`attestream.credentials.sharing`.
    """
    nats: dict[str, Any] = {
        "type": "account",
        "version": 2,
        "limits": limits,
        "default_permissions": {"pub": {}, "sub": {}},
        "signing_keys": signing_keys,
    }
    if revocations:
        nats["revocations"] = revocations
    if exports:
        nats["exports"] = list(exports)
    if imports:
        nats["imports"] = list(imports)
    return _sign({"sub": account, "name": name, "nats": nats}, issuer, now)


def reissued(token: Token, nats: dict[str, Any], issuer: NKey, now: int) -> str:
    """Return ``token`` with other claims for the bus, signed anew by ``issuer``."""
    claims: dict[str, Any] = {"sub": token.subject, "name": token.name, "nats": nats}
    if token.expires_at:
        claims["exp"] = token.expires_at
    if token.not_before:
        claims["nbf"] = token.not_before
    return _sign(claims, issuer, now)


def scope(key: str, role: str, template: dict[str, Any]) -> dict[str, Any]:
    """Return a signing key whose users get exactly the permissions in ``template``, whatever their token says."""
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def user_token(
    issuer: NKey,
    user: str,
    name: str,
    *,
    account: str,
    now: int,
    expires_at: int = 0,
    not_before: int = 0,
    tags: Sequence[str] = (),
) -> str:
    """Return the token of a user whose permissions are those of the scoped signing key ``issuer``.

    ``tags`` tell the holder what it has in hand (:func:`role_tag`); they grant nothing.

    :raises MalformedError: ``name`` is not one plain subject token. The server puts it into the permissions as it is, so
        that somebody called ``*`` would be everybody.
    """
    if not NAME.match(name):
        raise MalformedError(f"{name[:80]!r} can not be a name on the bus: 1-240 characters of A-Z a-z 0-9 _ - %")
    nats: dict[str, Any] = {"type": "user", "version": 2, "issuer_account": account}
    if tags:
        nats["tags"] = list(tags)
    claims: dict[str, Any] = {"sub": user, "name": name, "nats": nats}
    if expires_at:
        claims["exp"] = expires_at
    if not_before:
        claims["nbf"] = not_before
    return _sign(claims, issuer, now)


def role_tag(role: str) -> str:
    """Return the tag that names the role of a user."""
    return _ROLE_TAG + role


def role_of(token: Token) -> str:
    """Return the role that the tags of ``token`` name; empty when they name none, or several."""
    return role_in(token.tags)


def role_in(tags: Iterable[str]) -> str:
    """Return the role that ``tags`` name; empty when they name none, or several."""
    roles = {tag.removeprefix(_ROLE_TAG) for tag in tags if tag.startswith(_ROLE_TAG)}
    return roles.pop() if len(roles) == 1 else ""


def unlimited() -> dict[str, int]:
    """Return the limits of a user or account that has none."""
    return {"subs": _UNLIMITED, "data": _UNLIMITED, "payload": _UNLIMITED}


def read(token: str) -> Token:
    """Return what ``token`` says, after its signature was verified with the key that it names as its issuer.

    Whether that issuer may vouch for the subject is for the caller to decide.

    :raises MalformedError: it is not a token of the bus.
    :raises SignatureError: its signature is wrong.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise MalformedError(f"a token has at most {MAX_TOKEN_BYTES} bytes")
    parts = token.split(".")
    if len(parts) != 3:
        raise MalformedError("not a token: it has not three parts")
    try:
        header = msgspec.json.decode(_unb64(parts[0]), type=_Header)
        claims = msgspec.json.decode(_unb64(parts[1]), type=_Claims)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"not a token of the bus: {error}") from error
    if (header.typ, header.alg) != ("JWT", "ed25519-nkey"):
        raise MalformedError(f"not a token of the bus: {header.typ[:20]!r} by {header.alg[:20]!r}")
    kind = claims.nats.get("type")
    issuers = {"operator": Kind.OPERATOR, "account": Kind.OPERATOR, "user": Kind.ACCOUNT}
    subjects = {"operator": Kind.OPERATOR, "account": Kind.ACCOUNT, "user": Kind.USER}
    if not isinstance(kind, str) or kind not in issuers:
        raise MalformedError(f"not a token of an operator, account or user: {str(kind)[:20]!r}")
    decode_public(claims.sub, subjects[kind])
    verify(claims.iss, issuers[kind], _unb64(parts[2]), f"{parts[0]}.{parts[1]}".encode())
    return Token(
        kind=kind,
        subject=claims.sub,
        name=claims.name,
        issuer=claims.iss,
        issued_at=claims.iat,
        expires_at=claims.exp,
        not_before=claims.nbf,
        tags=_tags(claims.nats.get("tags", [])),
        nats=claims.nats,
    )


def check_time(token: Token, now: int) -> None:
    """Check that ``token`` holds at ``now``.

    :raises ExpiredError: its time is over, or has not come.
    """
    if token.expires_at and token.expires_at <= now:
        raise ExpiredError(f"the token of {token.name[:80]!r} has expired")
    if token.not_before > now:
        raise ExpiredError(f"the token of {token.name[:80]!r} is not valid yet")


def read_from(token: str, issuers: frozenset[str], now: int) -> Token:
    """Return what ``token`` says, if one of ``issuers`` has signed it and it holds at ``now``.

    :raises MalformedError: it is not a token of the bus.
    :raises SignatureError: its signature is wrong, or its issuer is not among ``issuers``.
    :raises ExpiredError: its time is over, or has not come.
    """
    found = read(token)
    if found.issuer not in issuers:
        raise SignatureError(f"the token of {found.name[:80]!r} was issued by {found.issuer}, who may not")
    check_time(found, now)
    return found


def _tags(tags: Any) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise MalformedError("not a token of the bus: its tags are no list of texts")
    return tuple(tags)


def _sign(claims: dict[str, Any], issuer: NKey, now: int) -> str:
    claims = claims | {"iss": issuer.public, "iat": now}
    digest = hashlib.new("sha512_256", msgspec.json.encode(claims)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode("ascii")
    covered = f"{_b64(_HEADER)}.{_b64(msgspec.json.encode(claims))}"
    return f"{covered}.{_b64(issuer.sign(covered.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("not a token: a part is no base64url") from error
