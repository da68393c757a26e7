"""Names of TPM objects (TPM 2.0 Part 1, section 16): what an object is, and where in its hierarchy it lives."""

from __future__ import annotations

from typing import Final

from attestream.errors import MalformedError
from attestream.tpm.algorithms import hash_by_id

MAX_NAME: Final = 66
"""Bytes of a name: the hash's identifier and a SHA-512 digest."""

OWNER: Final = 0x40000001
"""TPM_RH_OWNER: the handle that a key made in the storage hierarchy has above it."""
ENDORSEMENT: Final = 0x4000000B
"""TPM_RH_ENDORSEMENT."""
PLATFORM: Final = 0x4000000C
"""TPM_RH_PLATFORM."""
NULL: Final = 0x40000007
"""TPM_RH_NULL."""


def name_of(area: bytes) -> bytes:
    """Return the name of the object with the TPMT_PUBLIC ``area``: its nameAlg and the digest of the area.

    :raises MalformedError: when the area is too short to have a nameAlg.
    :raises UnsupportedError: when that hash is not known.
    """
    if len(area) < 4:
        raise MalformedError(f"a public area of {len(area)} bytes has no name")
    return area[2:4] + hash_by_id(int.from_bytes(area[2:4], "big")).digest(area)


def qualified_name(parent: bytes, name: bytes) -> bytes:
    """Return the qualified name of object ``name`` under ``parent``.

    :param parent: qualified name of the parent; for a primary object the handle of its hierarchy in 4 bytes.
    :raises MalformedError: when ``name`` is not a nameAlg and a digest of it.
    :raises UnsupportedError: when that hash is not known.
    """
    algorithm = hash_by_id(int.from_bytes(name[:2], "big"))
    if len(name) != 2 + algorithm.size:
        raise MalformedError(f"a name with {algorithm.name} has {2 + algorithm.size} bytes, not {len(name)}")
    return name[:2] + algorithm.digest(parent + name)
