"""Which partition an agent belongs to: the same function as the server's ``{{partition(n, 1)}}``."""

from __future__ import annotations

from typing import Final

from schemas import subjects

_OFFSET: Final = 2_166_136_261
_PRIME: Final = 16_777_619
_MASK: Final = 0xFFFF_FFFF


def partition(token: str, count: int = subjects.PARTITIONS) -> int:
    """Return the partition of subject token ``token`` (:func:`schemas.subjects.token`), 0 to ``count - 1``.

    FNV-1a of 32 bits over the token's UTF-8 bytes, modulo ``count``.
    """
    value = _OFFSET
    for byte in token.encode():
        value = ((value ^ byte) * _PRIME) & _MASK
    return value % count
