"""Bytes as they are kept: compressed by zlib (RFC 1950), unpacked with a bound."""

from __future__ import annotations

import zlib
from typing import Final

from attestream.errors import MalformedError, TooLargeError

MAX_BYTES: Final = 256 << 20
"""Most bytes that anything kept has before compression."""

_LEVEL: Final = 6


def pack(data: bytes) -> bytes:
    """Return ``data`` compressed. The same bytes always give the same result with the same zlib."""
    return zlib.compress(data, _LEVEL)


def unpack(data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes that :func:`pack` made ``data`` from.

    :raises TooLargeError: when that is over :data:`MAX_BYTES`.
    :raises MalformedError: when it is not those.
    """
    if not 0 <= size <= MAX_BYTES:
        raise TooLargeError(f"{size} kept bytes; the limit is {MAX_BYTES}")
    engine = zlib.decompressobj()
    try:
        unpacked = engine.decompress(data, size + 1)
    except zlib.error as error:
        raise MalformedError(f"what was kept can not be unpacked: {error}") from error
    if len(unpacked) != size or not engine.eof or engine.unused_data:
        raise MalformedError(f"what was kept does not unpack to {size} bytes")
    return unpacked
