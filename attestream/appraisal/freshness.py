"""Nonces that any worker of a cluster can check without having issued them, and the rule of when evidence is fresh."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import Final

from attestream.appraisal.findings import finding
from schemas.events import Finding

MAX_SKEW_MS: Final = 5_000
"""How far the clocks of two verifier hosts may disagree."""

INVALID: Final = "freshness.nonce-invalid"
"""Code of the finding about a nonce that was not made from the secret."""

_DOMAIN: Final = b"attestream/nonce/1"
_BLOCK: Final = 64
"""Bytes that SHA-256 takes at a time."""


def nonce(secret: bytes, agent_id: str, seq: int, issued_at: int) -> bytes:
    """Return the 32-byte nonce of challenge ``seq`` to an agent: HMAC-SHA256 (RFC 2104) under the cluster's secret.

    :param issued_at: Unix time in milliseconds.
    :raises OverflowError: when ``seq`` or ``issued_at`` is negative or has more than 64 bits.
    """
    name = agent_id.encode("utf-8", "surrogateescape")
    message = _DOMAIN + len(name).to_bytes(4, "big") + name + seq.to_bytes(8, "big") + issued_at.to_bytes(8, "big")
    begun = _keyed(secret)
    inner, outer = begun[0].copy(), begun[1].copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=4)
def _keyed(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the two hashes of HMAC after their block of key: what a key costs is spent once, and there are few secrets."""
    key = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in key)), hashlib.sha256(bytes(byte ^ 0x5C for byte in key))


def judge(
    agent_id: str,
    claimed: bytes,
    seq: int,
    issued_at: int,
    *,
    secret: bytes,
    now: int,
    last_seq: int,
    window_ms: int,
    issued: bytes = b"",
) -> Finding | None:
    """Return why evidence is not fresh, or None when it is. Stale evidence says nothing about the agent's standing.

    :param claimed: the evidence's nonce; ``seq`` and ``issued_at`` are the evidence's too.
    :param last_seq: challenge of the last evidence that was judged; each is judged once.
    :param window_ms: how long a challenge may be answered.
    :param issued: the nonce of that challenge, for whoever has issued it and need not compute it anew.
    """
    if not (0 <= seq < 1 << 63 and 0 <= issued_at < 1 << 63):
        return finding(INVALID)
    if not hmac.compare_digest(issued or nonce(secret, agent_id, seq, issued_at), claimed):
        return finding(INVALID)
    if seq <= last_seq:
        return finding("freshness.replayed", f"challenge {seq}")
    if issued_at > now + MAX_SKEW_MS:
        return finding("freshness.future", f"challenge {seq}")
    if now - issued_at > window_ms:
        return finding(
            "freshness.stale", f"challenge {seq}", f"The challenge is {now - issued_at} ms old; {window_ms} ms are allowed."
        )
    return None
