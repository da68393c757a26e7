"""Finds secrets in text: keys, seeds, tokens, passwords. For the repository and its history, and for logs.

Made for the secrets of this project first: an NKey seed is told by its checksum, a private key in DER by its structure, in
PEM, base64 or hex. Everything else goes by known forms, and by entropy where a name says that the value is a secret.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from attestream.credentials.nkey import NKey
from attestream.errors import AttestreamError

_SEED: Final = re.compile(rb"(?<![A-Z2-7])S[A-Z2-7]{57}(?![A-Z2-7])")
_DER: Final = (
    # RFC 8410: Ed25519 and X25519. RFC 5958 with RFC 5480: the curves P-256, P-384, P-521. RSA (RFC 8017).
    "302e020100300506032b657004220420",
    "302e020100300506032b656e04220420",
    "020100301306072a8648ce3d020106082a8648ce3d0301070",
    "020100301006072a8648ce3d020106052b8104002",
    "020100300d06092a864886f70d01010105000482",
)
"""Beginnings of private keys (PKCS #8), as hex digits; the last digit may be half a byte."""

_KNOWN: Final[tuple[tuple[str, re.Pattern[bytes]], ...]] = (
    ("private key", re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\s*(?:\\n)?[A-Za-z0-9+/=\s:,-]{40}")),
    ("bus token", re.compile(rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{12,}\.eyJ[A-Za-z0-9_-]{12,}\.[A-Za-z0-9_-]{40,}")),
    ("age key", re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}")),
    ("forge token", re.compile(rb"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60}|glpat-[\w-]{20})")),
    ("registry token", re.compile(rb"(?<![A-Za-z0-9])(?:pypi-AgEI[\w-]{50}|npm_[A-Za-z0-9]{36})")),
    ("cloud key", re.compile(rb"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])|AIza[\w-]{35}")),
    ("chat token", re.compile(rb"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{20,}")),
)
_PASSWORD_IN_URL: Final = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s/:@\"'{}<>$]+:([^\s/@\"'{}<>$]{8,})@")
_NAMED: Final = re.compile(
    rb"(?i)(?:passw(?:or)?d|passphrase|secret|token|api_?key|seed|private_?key)[\w.-]{0,40}[\"']?\s*[:=]\s*[br]{0,2}"
    rb"[\"']([A-Za-z0-9+/=_.-]{20,})[\"']"
)

ENTROPY_BITS: Final = 3.6
"""Of a character, from which a value is taken to be random; English words have some 2.5 to 3.5, base64 up to 6."""


class Secret(NamedTuple):
    """What was found. The value itself is not shown: reports are read by many."""

    kind: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.kind}"


def scan(data: bytes) -> list[Secret]:
    """Return the secrets in ``data``, text or not."""
    return sorted(
        {Secret(kind, data.count(b"\n", 0, offset) + 1) for kind, offset in _found(data)}, key=lambda each: each.line
    )


def forms(secret: bytes) -> list[bytes]:
    """Return how ``secret`` looks raw, and inside hex and base64 text: what a log could show of it."""
    encoded = {secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()}
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        # At each of the three places of a byte among four letters; letters that neighbours have a part in are left out.
        for shift in range(3):
            text = alphabet(bytes(shift) + secret)
            encoded.add(text[(0, 2, 3)[shift] : len(secret) * 4 // 3 - 1 + (0, 2, 3)[shift] - shift])
    return sorted(encoded)


def entropy(value: bytes) -> float:
    """Return the bits that a character of ``value`` has on the average (Shannon)."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def _found(data: bytes) -> Iterator[tuple[str, int]]:
    for kind, pattern in _KNOWN:
        for match in pattern.finditer(data):
            if kind != "private key" or entropy(match.group()[-40:]) > ENTROPY_BITS:
                yield kind, match.start()
    for match in _SEED.finditer(data):
        if _is_seed(match.group()):
            yield "bus seed", match.start()
    for match in _PASSWORD_IN_URL.finditer(data):
        if match.group(1).lower() != b"password" and entropy(match.group(1)) > ENTROPY_BITS - 1:
            yield "password in a URL", match.start()
    for match in _NAMED.finditer(data):
        if entropy(match.group(1)) > ENTROPY_BITS and re.search(rb"\d", match.group(1)):
            yield "value of a secret's name", match.start()
    yield from _private_keys(data)


def _is_seed(text: bytes) -> bool:
    try:
        NKey.from_seed(text.decode("ascii"))
    except AttestreamError:
        return False
    return True


def _private_keys(data: bytes) -> Iterator[tuple[str, int]]:
    """Find PKCS #8 structures: as bytes, in hex, and in base64 (whose letters are decoded in runs)."""
    lowered = data.lower()
    for form in _DER:
        whole = bytes.fromhex(form[: len(form) // 2 * 2])
        # What follows has to look like a key: a beginning alone is a constant, as those above.
        for match in re.finditer(form.encode() + rb"[0-9a-f]{40}", lowered):
            yield "private key in hex", match.start()
        for match in re.finditer(re.escape(whole), data):
            if len(data) - match.end() >= 20:
                yield "private key in DER", match.start()
    for match in re.finditer(rb"(?<![A-Za-z0-9+/])M[A-Za-z0-9+/]{60,}={0,2}", data):
        letters = match.group().rstrip(b"=")
        try:
            start = base64.b64decode(letters[: len(letters) // 4 * 4])[:64].hex()
        except binascii.Error:
            continue
        if start.startswith("30") and any(form in start for form in _DER):
            yield "private key in base64", match.start()
