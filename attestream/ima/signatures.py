"""Signatures of files: the ``security.ima`` attribute in its three versions.

Source: Linux ``security/integrity/integrity.h`` (types and headers), ``digsig_asymmetric.c`` (versions 2 and 3),
``ima/ima_appraise.c`` (``ima_file_id``), ``lib/digsig.c`` (version 1).
"""

from __future__ import annotations

import enum
import hashlib
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from attestream.errors import MalformedError
from attestream.ima.digests import ALGORITHM_NAMES, HASHLIB_NAMES, VERITY, split_digest
from attestream.ima.keys import KeyRing, SigningKey
from attestream.ima.memo import Generations

DIGSIG: Final = 3
"""``EVM_IMA_XATTR_DIGSIG``: signs the file's digest."""
PORTABLE: Final = 5
"""``EVM_XATTR_PORTABLE_DIGSIG``."""
VERITY_DIGSIG: Final = 6
"""``IMA_VERITY_DIGSIG``: signs a digest of fs-verity, in version 3 only."""

_HEADER: Final = Struct(">BBBIH")
_LEGACY_HEADER: Final = Struct("<BIBB8sB")
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    # Whether a signature over SHA-1 counts is for the policy to say.
    "sha1": hashes.SHA1(),  # noqa: S303  # as above
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}


class FileSignature(msgspec.Struct, frozen=True, gc=False):
    """A parsed ``security.ima`` signature."""

    type: int
    version: int
    hash_name: str
    """Of the digest that is signed."""
    keyid: bytes
    """Four bytes; eight in version 1."""
    value: bytes
    """The signature itself."""
    header: bytes = b""
    """What version 1 hashes together with the digest."""


class SignatureVerdict(enum.Enum):
    """What a signature says about a file."""

    VALID = "valid"
    INVALID = "invalid"
    """It is none, it is of another digest, or its algorithm is not supported."""
    NO_KEY = "no key"
    """No key has the id that it names."""


def parse_signature(data: bytes) -> FileSignature:
    """Return the signature in a ``security.ima`` value.

    :raises MalformedError: when it is none: a digest, another type or version, an unknown hash, or lengths that do not fit.
    """
    if len(data) < 2:
        raise MalformedError("a file signature needs a type and a version")
    kind, version = data[0], data[1]
    if kind not in (DIGSIG, PORTABLE, VERITY_DIGSIG):
        raise MalformedError(f"type {kind} is not that of a file signature")
    if version == 1 and kind == DIGSIG:
        return _parse_legacy(data)
    if version not in (2, 3) or (kind == VERITY_DIGSIG and version != 3):
        raise MalformedError(f"version {version} of a file signature of type {kind} is not known")
    if len(data) < _HEADER.size:
        raise MalformedError("the file signature ends within its header")
    _, _, algorithm, keyid, size = _HEADER.unpack_from(data)
    value = data[_HEADER.size :]
    if size != len(value):
        raise MalformedError(f"the file signature has {len(value)} bytes; its header says {size}")
    if algorithm >= len(ALGORITHM_NAMES):
        raise MalformedError(f"hash algorithm {algorithm} of the file signature is not known")
    return FileSignature(kind, version, ALGORITHM_NAMES[algorithm], keyid.to_bytes(4, "big"), value)


def _parse_legacy(data: bytes) -> FileSignature:
    end = 1 + _LEGACY_HEADER.size
    if len(data) < end + 2:
        raise MalformedError("the file signature ends within its header")
    _, _, algorithm, hash_algorithm, keyid, numbers = _LEGACY_HEADER.unpack_from(data, 1)
    if (algorithm, hash_algorithm, numbers) != (0, 0, 1):
        raise MalformedError("a file signature of version 1 is one number by RSA over SHA-1")
    value = data[end + 2 :]
    if (int.from_bytes(data[end : end + 2], "big") + 7) // 8 != len(value):
        raise MalformedError("the number in the file signature has not the length that it says")
    return FileSignature(DIGSIG, 1, "sha1", keyid, value, data[1:end])


def verify_signature(
    signature: FileSignature, digest: bytes, keys: KeyRing, memo: Generations[bool] | None = None
) -> SignatureVerdict:
    """Return what ``signature`` says about a file.

    :param digest: of the file, as field ``d-ng``.
    :param memo: verdicts that were worked out before; only saves time.
    """
    if signature.version == 1:
        candidates = keys.with_legacy_id(signature.keyid)
    else:
        candidates = keys.with_id(int.from_bytes(signature.keyid, "big"))
    if not candidates:
        return SignatureVerdict.NO_KEY
    if any(_remembered(signature, digest, key, memo) for key in candidates):
        return SignatureVerdict.VALID
    return SignatureVerdict.INVALID


def _remembered(signature: FileSignature, digest: bytes, key: SigningKey, memo: Generations[bool] | None) -> bool:
    if memo is None:
        return _is_by(signature, digest, key)
    # Each part has a fixed length or ends where another begins: no two questions share a name.
    kind = f"{signature.type} {signature.version} {signature.hash_name} {len(digest)} ".encode("ascii")
    name = hashlib.sha256(b"".join((key.fingerprint, kind, digest, signature.header, signature.value))).digest()
    known = memo.get(name)
    if known is None:
        known = _is_by(signature, digest, key)
        memo.add(name, known)
    return known


def _is_by(signature: FileSignature, digest: bytes, key: SigningKey) -> bool:
    """Return whether ``key`` made ``signature`` for a file with ``digest``."""
    algorithm, value = split_digest(digest)
    verity = digest.startswith(VERITY)
    if verity and signature.type != VERITY_DIGSIG:
        return False
    if signature.version == 1:
        return _is_legacy_by(signature, value, key)
    new = _HASHES.get(signature.hash_name)
    if new is None or algorithm != signature.hash_name:
        return False
    if signature.version == 3:
        value = hashlib.new(HASHLIB_NAMES[algorithm], _file_id(signature, value), usedforsecurity=False).digest()
    try:
        if isinstance(key.public, RSAPublicKey):
            key.public.verify(signature.value, value, padding.PKCS1v15(), utils.Prehashed(new))
        else:
            key.public.verify(signature.value, value, ec.ECDSA(utils.Prehashed(new)))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _file_id(signature: FileSignature, digest: bytes) -> bytes:
    """Return what version 3 signs the hash of (``struct ima_file_id``): it can not be taken for a plain file digest."""
    return bytes((signature.type, ALGORITHM_NAMES.index(signature.hash_name))) + digest


def _is_legacy_by(signature: FileSignature, digest: bytes, key: SigningKey) -> bool:
    if not isinstance(key.public, RSAPublicKey):
        return False
    signed = hashlib.sha1(digest + signature.header, usedforsecurity=False).digest()
    try:
        # Version 1 signs the bare digest, without naming its algorithm.
        found = key.public.recover_data_from_signature(signature.value, padding.PKCS1v15(), None)
    except (InvalidSignature, ValueError):
        return False
    return found == signed
