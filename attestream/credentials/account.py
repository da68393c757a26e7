"""The account that agents live in: which of their identities are void.

The servers of the bus learn it from the account's token alone, so each change is a new token with all that is in force. Two
things end an identity: an entry for its key in the token's revocations, or the absence of the key that has issued it. The
list is bounded, because a token must fit into a message: when it would grow beyond :data:`MAX_REVOKED`, the issuing key is
replaced instead, which ends every agent's identity at once and empties the list.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Any, Final

from attestream.credentials.nkey import KEY_BYTES, Kind, NKey, decode_public
from attestream.credentials.token import Token, read_from, reissued
from attestream.errors import MalformedError

MAX_REVOKED: Final = 10_000
"""Most entries that are kept: 94 bytes each in the token, which has to fit into one message of 1 MiB."""

AGENT: Final = "agent"
"""Name of the scope whose key issues agents' identities."""


def issuing_key(base: NKey, generation: int) -> NKey:
    """Return the key that issues identities in ``generation``; that of generation 0 is ``base``.

    Whoever has ``base`` can derive all of them, so that several registrars need share nothing but the number.
    """
    if generation == 0:
        return base
    private = hmac.digest(base.seed.encode(), b"attestream/agent-issuer/1" + generation.to_bytes(8, "big"), "sha256")
    return NKey(Kind.ACCOUNT, private[:KEY_BYTES])


def revised(
    current: Token, issuer: NKey, *, revoke: Mapping[str, int], forget: Collection[str], agent_key: str, now: int
) -> str | None:
    """Return the account's next token, or None when ``current`` says all that already.

    :param revoke: user key -> Unix seconds: what was issued to that key until then is void.
    :param forget: user keys whose entries have done their work. Those of others are kept as they are.
    :param agent_key: public key that alone may issue agents' identities.
    :param now: when the token is issued, in Unix seconds.
    :raises MalformedError: ``current`` has no scope for agents, or a key is no user's.
    """
    for key in revoke:
        decode_public(key, Kind.USER)
    keys = [_rekeyed(entry, agent_key) for entry in current.nats.get("signing_keys", [])]
    if not any(_is_agents(entry) for entry in keys):
        raise MalformedError(f"the account {current.name[:80]!r} has no signing key for agents")
    there: dict[str, int] = current.nats.get("revocations") or {}
    wanted = {key: at for key, at in there.items() if key not in forget}
    for key, at in revoke.items():
        wanted[key] = max(at, wanted.get(key, 0))
    if wanted == there and keys == current.nats["signing_keys"]:
        return None
    nats: dict[str, Any] = {**current.nats, "signing_keys": keys}
    nats.pop("revocations", None)
    if wanted:
        nats["revocations"] = wanted
    return reissued(current, nats, issuer, now)


def read_account(text: str, account: str, operator_keys: frozenset[str], now: int) -> Token:
    """Return what the token of ``account`` says, if one of the operator's keys has signed it.

    A server that has been taken over may answer with any token; what is signed after it must not carry its wishes on.

    :raises MalformedError: it is no token, or another account's.
    :raises SignatureError: another has signed it.
    :raises ExpiredError: its time is over.
    """
    token = read_from(text, operator_keys, now)
    if token.kind != "account" or token.subject != account:
        raise MalformedError(f"the token is not that of account {account}")
    return token


def _is_agents(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("role") == AGENT


def _rekeyed(entry: Any, key: str) -> Any:
    return {**entry, "key": key} if _is_agents(entry) else entry
