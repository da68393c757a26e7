"""Hash functions for the hot loop over a log: looked up once for a whole log, not once for each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from attestream.errors import UnsupportedError

# SHA-1 here only finds mistakes and serves old PCR banks: what a quote proves rests on the policy's bank.
# Not through `usedforsecurity`, which costs a fifth of the call: FIPS mode refuses MD5, not SHA-1.
_SHA1: Final = hashlib.sha1

HASHES: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "sha1": _SHA1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
"""PCR bank -> constructor of a :mod:`hashlib` object over some bytes."""


class Extension(NamedTuple):
    """How the kernel extends a PCR bank."""

    of: Callable[[bytes], bytes]
    """Template data -> value."""
    violation: bytes
    """The value for an entry without digest: ones."""


def bank_hash(bank: str) -> Callable[[bytes], Any]:
    """Return the hash of PCR bank ``bank``.

    :raises UnsupportedError: when it is not known.
    """
    found = HASHES.get(bank)
    if found is None:
        raise UnsupportedError(f"PCR bank {bank!r} is not supported; known are {', '.join(HASHES)}")
    return found


def extension(bank: str, *, padded: bool = False) -> Extension:
    """Return how ``bank`` is extended: with its own digest of the template data.

    :param padded: as kernels before 5.8 do: with the SHA-1 digest and zeros behind it (Linux 5.7
        ``security/integrity/ima/ima_queue.c``, ``ima_pcr_extend``).
    :raises UnsupportedError: when the bank is not known.
    """
    new = bank_hash(bank)
    size = new(b"").digest_size
    if padded:
        return Extension(lambda data: _SHA1(data).digest().ljust(size, b"\x00"), (b"\xff" * 20).ljust(size, b"\x00"))
    if bank == "sha256":
        # The usual bank, in the hot loop: without looking for the hash.
        return Extension(_sha256, b"\xff" * size)
    return Extension(lambda data: new(data).digest(), b"\xff" * size)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
