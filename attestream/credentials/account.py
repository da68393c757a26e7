"""The account that agents live in: which of their identities are void.

The servers of the bus learn it from the account's token alone, so each change is a new token with all that is in force. An
entry names a key and a time: what was issued to that key until then is void, and connections that rest on it are closed.
Entries are needed only as long as what they revoke would hold otherwise. The list is bounded, because a token must fit into
one message: beyond :data:`MAX_REVOKED` entries a single one for :data:`EVERYBODY` takes the place of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestream.credentials.nkey import Kind, NKey, decode_public
from attestream.credentials.token import Token, read_from, reissued
from attestream.errors import MalformedError

MAX_REVOKED: Final = 10_000
"""Most entries that are kept: 94 bytes each in the token, which has to fit into one message of 1 MiB."""

EVERYBODY: Final = "*"
"""The key of the entry that revokes what was issued to any key of the account until then."""


def revised(current: Token, issuer: NKey, *, revoke: Mapping[str, int], since: int, now: int) -> str | None:
    """Return the account's next token, or None when ``current`` says all that already.

    :param revoke: user key, or :data:`EVERYBODY` -> Unix seconds until which what was issued is void.
    :param since: entries that ``current`` has beyond ``revoke`` are kept when they are younger than this: they may be all
        that is left of a database that was lost. Those before have done their work.
    :param now: when the token is issued, in Unix seconds.
    :raises MalformedError: a key is no user's.
    """
    for key in revoke:
        if key != EVERYBODY:
            decode_public(key, Kind.USER)
    there: dict[str, int] = current.nats.get("revocations") or {}
    wanted = {key: at for key, at in there.items() if at >= since}
    for key, at in revoke.items():
        wanted[key] = max(at, wanted.get(key, 0))
    if EVERYBODY in wanted:
        wanted = {key: at for key, at in wanted.items() if key == EVERYBODY or at > wanted[EVERYBODY]}
    if len(wanted) > MAX_REVOKED:
        wanted = dict(revoke)
    if wanted == there:
        return None
    nats: dict[str, Any] = {key: value for key, value in current.nats.items() if key != "revocations"}
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
