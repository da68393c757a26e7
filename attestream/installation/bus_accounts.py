"""The tokens of the bus's accounts: limits, who may issue identities in each, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.permissions import template
from attestream.credentials.sharing import exports, imports
from attestream.credentials.token import account_token, scope, unlimited
from schemas import topology
from schemas.accounts import GUESTS, HOME, account_of, connections
from schemas.roles import GRANTS, Role

_UNLIMITED: Final = -1
_STREAMS: Final = len(topology.STREAMS) + len(topology.BUCKETS) + len(topology.OBJECT_BUCKETS)

LIMITS: Final = {
    **unlimited(),
    "conn": _UNLIMITED,
    "leaf": 0,
    "imports": _UNLIMITED,
    "exports": _UNLIMITED,
    "wildcards": True,
}
"""Of an account without streams."""


def home_limits() -> dict[str, Any]:
    """Return what the account of the services may have: the streams of the topology with room for their successors."""
    return {
        **LIMITS,
        "streams": 2 * _STREAMS,
        "consumer": 16_384,
        # Within what each server offers, else the account has no JetStream; in a cluster every replica counts.
        "disk_storage": 512 << 30,
        "mem_storage": 512 << 20,
    }


def guest_limits(guest: Role) -> dict[str, Any]:
    """Return what the account of ``guest`` may have."""
    return {**LIMITS, "conn": connections(guest)}


def account_tokens(signing: NKey, issuers: Mapping[Role, NKey], now: int) -> dict[str, str]:
    """Return the tokens of new accounts by :func:`account_of` their roles; ``issuers`` has the issuing key of each role."""
    home = NKey.generate(Kind.ACCOUNT)
    tokens = {
        HOME: account_token(
            signing,
            home.public,
            HOME,
            limits=home_limits(),
            signing_keys=[role_scope(g.role, issuers[g.role].public) for g in GRANTS if account_of(g.role) == HOME],
            revocations={},
            now=now,
            exports=exports(),
        )
    }
    for guest in GUESTS:
        tokens[account_of(guest)] = account_token(
            signing,
            NKey.generate(Kind.ACCOUNT).public,
            account_of(guest),
            limits=guest_limits(guest),
            signing_keys=[role_scope(guest, issuers[guest].public)],
            revocations={},
            now=now,
            imports=imports(guest, home.public),
        )
    return tokens


def role_scope(role: Role, issuer: str) -> dict[str, Any]:
    """Return the entry of an account token that lets ``issuer`` issue identities of ``role``, with its permissions alone."""
    return scope(issuer, str(role), template(role))
