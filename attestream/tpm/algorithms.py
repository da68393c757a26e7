"""Algorithms of a TPM by their TCG identifiers (TCG Algorithm Registry; TPM 2.0 Part 2, section 6.3)."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestream.errors import UnsupportedError

ALG_RSA: Final = 0x0001
ALG_AES: Final = 0x0006
ALG_KEYEDHASH: Final = 0x0008
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAES: Final = 0x0015
ALG_RSAPSS: Final = 0x0016
ALG_OAEP: Final = 0x0017
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023
ALG_CFB: Final = 0x0043


class HashAlgorithm(NamedTuple):
    """A hash of a TPM: PCR bank, name or signature hash. ``size`` is that of a digest in bytes."""

    name: str
    tpm_id: int
    size: int
    primitive: hashes.HashAlgorithm
    """The same hash for ``cryptography``."""

    def new(self, data: bytes = b"") -> Any:
        """Return a :mod:`hashlib` object that has read ``data``."""
        return hashlib.new(self.name, data, usedforsecurity=False)

    def digest(self, data: bytes) -> bytes:
        """Return the digest of ``data``."""
        return bytes(self.new(data).digest())


class Curve(NamedTuple):
    """An elliptic curve (TPM_ECC_CURVE). ``size`` is that of a coordinate in bytes."""

    name: str
    tpm_id: int
    size: int
    primitive: ec.EllipticCurve


_HASHES: Final = (
    HashAlgorithm("sha1", 0x0004, 20, hashes.SHA1()),  # noqa: S303  # PCR banks only: signatures with it are refused
    HashAlgorithm("sha256", 0x000B, 32, hashes.SHA256()),
    HashAlgorithm("sha384", 0x000C, 48, hashes.SHA384()),
    HashAlgorithm("sha512", 0x000D, 64, hashes.SHA512()),
)
_CURVES: Final = (
    Curve("p256", 0x0003, 32, ec.SECP256R1()),
    Curve("p384", 0x0004, 48, ec.SECP384R1()),
    Curve("p521", 0x0005, 66, ec.SECP521R1()),
)
_HASH_BY_NAME: Final = {item.name: item for item in _HASHES}
_HASH_BY_ID: Final = {item.tpm_id: item for item in _HASHES}
_CURVE_BY_NAME: Final = {item.name: item for item in _CURVES}
_CURVE_BY_ID: Final = {item.tpm_id: item for item in _CURVES}

SIGNATURE_SCHEMES: Final = {"rsassa": ALG_RSASSA, "rsapss": ALG_RSAPSS, "ecdsa": ALG_ECDSA}
"""Signature scheme -> TPM_ALG_ID."""
SIGNATURE_SCHEME_NAMES: Final = {number: name for name, number in SIGNATURE_SCHEMES.items()}
SIGNATURE_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
"""Hashes that a signature may use. SHA-1 is out: collisions are practical (NIST SP 800-131A)."""


def hash_named(name: str) -> HashAlgorithm:
    """Return the hash called ``name``, for example ``sha256``.

    :raises UnsupportedError: when it is not known.
    """
    found = _HASH_BY_NAME.get(name)
    if found is None:
        raise UnsupportedError(f"hash {name!r} is not supported; known are {', '.join(_HASH_BY_NAME)}")
    return found


def hash_by_id(tpm_id: int) -> HashAlgorithm:
    """Return the hash with the TPM_ALG_ID ``tpm_id``.

    :raises UnsupportedError: when it is not known.
    """
    found = _HASH_BY_ID.get(tpm_id)
    if found is None:
        raise UnsupportedError(f"hash algorithm 0x{tpm_id:04x} is not supported")
    return found


def curve_named(name: str) -> Curve:
    """Return the curve called ``name``, for example ``p256``.

    :raises UnsupportedError: when it is not known.
    """
    found = _CURVE_BY_NAME.get(name)
    if found is None:
        raise UnsupportedError(f"curve {name!r} is not supported; known are {', '.join(_CURVE_BY_NAME)}")
    return found


def curve_by_id(tpm_id: int) -> Curve:
    """Return the curve with the TPM_ECC_CURVE ``tpm_id``.

    :raises UnsupportedError: when it is not known.
    """
    found = _CURVE_BY_ID.get(tpm_id)
    if found is None:
        raise UnsupportedError(f"elliptic curve 0x{tpm_id:04x} is not supported")
    return found
