"""Digests of files as the kernel writes them: algorithms, their numbers and sizes, and the field that carries a digest.

Source: Linux ``include/uapi/linux/hash_info.h`` (numbers), ``crypto/hash_info.c`` (names and sizes), and
``security/integrity/ima/ima_template_lib.c`` (fields).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestream.errors import MalformedError

_ALGORITHMS: Final = (
    ("md4", 16),
    ("md5", 16),
    ("sha1", 20),
    ("rmd160", 20),
    ("sha256", 32),
    ("sha384", 48),
    ("sha512", 64),
    ("sha224", 28),
    ("rmd128", 16),
    ("rmd256", 32),
    ("rmd320", 40),
    ("wp256", 32),
    ("wp384", 48),
    ("wp512", 64),
    ("tgr128", 16),
    ("tgr160", 20),
    ("tgr192", 24),
    ("sm3", 32),
    ("streebog256", 32),
    ("streebog512", 64),
    ("sha3-256", 32),
    ("sha3-384", 48),
    ("sha3-512", 64),
)

ALGORITHM_NAMES: Final = tuple(name for name, _ in _ALGORITHMS)
"""Names in the order of the kernel's ``enum hash_algo``: the index is the number that signatures carry."""

DIGEST_SIZES: Final[Mapping[bytes, int]] = {
    **{name.encode("ascii"): size for name, size in _ALGORITHMS},
    b"sm3-256": 32,
}
"""Name of a file digest's algorithm -> bytes (``sm3-256`` is the older name of ``sm3``)."""

WEAK: Final = frozenset({"md4", "md5", "rmd128", "tgr128"})
"""Algorithms whose digests can not tell files apart."""

HASHLIB_NAMES: Final[Mapping[str, str]] = {
    "md5": "md5",
    "sha1": "sha1",
    "sha224": "sha224",
    "sha256": "sha256",
    "sha384": "sha384",
    "sha512": "sha512",
    "sha3-256": "sha3_256",
    "sha3-384": "sha3_384",
    "sha3-512": "sha3_512",
}
"""The algorithms that can be computed here -> their names in :mod:`hashlib`."""

VERITY: Final = b"verity:"
"""What stands before the algorithm when the digest is that of fs-verity (field ``d-ngv2``)."""

_IMA_TYPE: Final = b"ima:"


def digest_field(algorithm: str, digest: bytes) -> bytes:
    """Return field ``d-ng`` for ``digest``; with ``verity:`` before the algorithm, the digest that fs-verity makes.

    :raises MalformedError: when the kernel has no such algorithm or the digest's size is not that algorithm's.
    """
    name = algorithm.encode("utf-8", "surrogateescape")
    if DIGEST_SIZES.get(name.removeprefix(VERITY)) != len(digest):
        raise MalformedError(f"{algorithm[:32]!r} with {len(digest)} bytes is not a digest that the kernel makes")
    return name + b":\x00" + digest


def digest_text(field: bytes) -> str:
    """Return field ``d-ng`` as ``algorithm:hex``."""
    algorithm, _, digest = field.partition(b":\x00")
    return f"{algorithm.decode('ascii', 'replace')}:{digest.hex()}"


def split_digest(field: bytes) -> tuple[str, bytes]:
    """Return algorithm (without ``verity:``) and digest of a field that a template's reader has checked."""
    algorithm, _, digest = field.partition(b":\x00")
    return algorithm.removeprefix(VERITY).decode("ascii", "replace"), digest


def check_digest(field: bytes) -> bytes:
    """Return field ``d-ng`` when it is one that the kernel makes.

    :raises MalformedError: when it is not.
    """
    algorithm, separator, value = field.partition(b":\x00")
    if not separator or DIGEST_SIZES.get(algorithm) != len(value):
        raise MalformedError("the file digest is not one that the kernel makes")
    return field


def check_typed_digest(field: bytes) -> bytes:
    """Return field ``d-ngv2`` without the type ``ima``, which is the usual one; ``verity`` stays.

    :raises MalformedError: when the type is none of the two, or what follows is not a field ``d-ng``.
    """
    if field.startswith(_IMA_TYPE):
        return check_digest(field[len(_IMA_TYPE) :])
    if field.startswith(VERITY):
        return VERITY + check_digest(field[len(VERITY) :])
    raise MalformedError("the type of the file digest is neither ima nor verity")


def legacy_digest(value: bytes) -> bytes:
    """Return what field ``d`` of the first template says as a field ``d-ng``; its size tells SHA-1 from MD5.

    :raises MalformedError: when it has neither size.
    """
    algorithm = {20: "sha1", 16: "md5"}.get(len(value))
    if algorithm is None:
        raise MalformedError(f"a digest of {len(value)} bytes is neither SHA-1 nor MD5")
    return digest_field(algorithm, value)
