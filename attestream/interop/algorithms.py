"""Names of algorithms, and which of them are accepted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HASHES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32}
"""Hash -> bytes of its digest, under the names of tpm2-tools. Recognised is not yet supported: no quote with SM3 is read."""

ENCRYPTION: Final = (
    *("rsa", "rsa1024", "rsa2048", "rsa3072", "rsa4096"),
    *("ecc", "ecc192", "ecc224", "ecc256", "ecc384", "ecc521"),
)
"""Kinds of keys."""

SIGNING: Final = ("rsassa", "rsapss", "ecdsa", "ecdaa", "ecschnorr")
"""Signature schemes that an agent may name."""

QUOTE_SIGNING: Final = ("rsassa", "ecdsa")
"""Schemes of which a quote is accepted."""

_ALIASES: Final = {"rsa": "rsa2048", "ecc": "ecc256"}


def normalised(name: str) -> str:
    """Return ``name`` with the size that it stands for: ``rsa`` is ``rsa2048``, ``ecc`` is ``ecc256``."""
    return _ALIASES.get(name, name)


def is_accepted(name: str, accepted: Iterable[str]) -> bool:
    """Return whether ``name`` is one of ``accepted``; a kind of key without a size means its default size on either side."""
    return normalised(name) in map(normalised, accepted)
