"""Signs files as ``evmctl sign --portable`` does, and makes the fields of an ``evm-sig`` entry about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from struct import pack
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from attestream.ima.digests import ALGORITHM_NAMES
from attestream.ima.keys import SigningKey

_SCHEMES = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}


def ima_digest(digest: bytes, hash_name: str = "sha256") -> bytes:
    """Return a ``security.ima`` value that is a digest (``IMA_XATTR_DIGEST_NG``)."""
    return bytes((4, ALGORITHM_NAMES.index(hash_name))) + digest


def sign(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    digest: bytes,
    *,
    kind: int,
    hash_name: str = "sha256",
    version: int = 2,
) -> bytes:
    """Return a signature over ``digest``: ``kind`` 3 is of ``security.ima``, 5 a portable one of EVM, 6 of fs-verity.

    Version 2 signs ``digest`` itself, version 3 the hash of ``struct ima_file_id`` with it.
    """
    algorithm = ALGORITHM_NAMES.index(hash_name)
    if version == 3:
        digest = hashlib.new(hash_name.replace("sha3-", "sha3_"), bytes((kind, algorithm)) + digest).digest()
    scheme = utils.Prehashed(_SCHEMES[hash_name])
    if isinstance(key, rsa.RSAPrivateKey):
        value = key.sign(digest, padding.PKCS1v15(), scheme)
    else:
        value = key.sign(digest, ec.ECDSA(scheme))
    head = bytes((kind, version, algorithm)) + SigningKey(key.public_key()).keyid.to_bytes(4, "big")
    return head + len(value).to_bytes(2, "big") + value


def evm_fields(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    attributes: Mapping[str, bytes],
    *,
    owner: int = 0,
    group: int = 0,
    mode: int = 0o100755,
    hash_name: str = "sha256",
    version: int = 2,
    bits: int = 64,
    order: Literal["<", ">"] = "<",
) -> dict[str, bytes]:
    """Return the fields of an ``evm-sig`` entry, by name, of a file that ``key`` signed with these attributes.

    :param bits: word size of the kernels that the signature is for (``evmctl --m32`` for 32).
    :param order: of the bytes of owner, group and mode in what is signed: that of the kernels.
    """
    values = b"".join(attributes.values())
    # Inode number and generation are zeros in a portable signature; two bytes of padding end the structure.
    covered = values + bytes(bits // 8) + bytes(4) + pack(f"{order}IIHH", owner, group, mode, 0)
    signed = hashlib.new(hash_name.replace("sha3-", "sha3_"), covered).digest()
    return {
        "evmsig": sign(key, signed, kind=5, hash_name=hash_name, version=version),
        "xattrnames": "|".join(attributes).encode("utf-8") + b"\x00",
        "xattrlengths": b"".join(pack("<I", len(value)) for value in attributes.values()),
        "xattrvalues": values,
        "iuid": pack("<I", owner),
        "igid": pack("<I", group),
        "imode": pack("<H", mode),
    }
