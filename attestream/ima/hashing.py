"""Hash functions for the hot loop over a log: looked up once for a whole log, not once for each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from attestream.errors import UnsupportedError

# SHA-1 here only finds mistakes and serves old PCR banks: what a quote proves rests on the policy's bank.
_SHA1: Final = partial(hashlib.sha1, usedforsecurity=False)

HASHES: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "sha1": _SHA1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
"""PCR bank -> constructor of a :mod:`hashlib` object over some bytes."""


def bank_hash(bank: str) -> Callable[[bytes], Any]:
    """Return the hash of PCR bank ``bank``.

    :raises UnsupportedError: when it is not known.
    """
    found = HASHES.get(bank)
    if found is None:
        raise UnsupportedError(f"PCR bank {bank!r} is not supported; known are {', '.join(HASHES)}")
    return found
