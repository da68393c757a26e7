"""Detached OpenPGP signatures, as far as policies were signed with them: version 4, by an RSA or Ed25519 primary key.

Source: RFC 4880, sections 4.2 (packets), 5.2 (signatures), 5.5 (keys) and 6.2 (armour); RFC 9580, section 5.5.5.5 (Ed25519).
Who gives a key trusts it: neither its own signatures nor its lifetime are looked at, and subkeys do not count.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from io import BytesIO
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.keys import MAX_RSA_BITS

ARMOUR: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
MAX_BYTES: Final = 1 << 20
_MIN_RSA_BITS: Final = 2048
_SIGNATURE, _PUBLIC_KEY = 2, 6
_RSA: Final = (1, 3)
_EDDSA: Final = 22
_ED25519: Final = bytes.fromhex("2b06010401da470f01")
_BINARY: Final = 0
_HASHES: Final[dict[int, hashes.HashAlgorithm]] = {8: hashes.SHA256(), 9: hashes.SHA384(), 10: hashes.SHA512()}

Key = RSAPublicKey | Ed25519PublicKey


class _Signature(NamedTuple):
    algorithm: int
    hash_algorithm: hashes.HashAlgorithm
    hashed: bytes
    """What of the packet is signed besides the document."""
    numbers: BytesIO


def verify_openpgp(key: bytes, signature: bytes, body: bytes) -> bool:
    """Return whether ``signature`` over ``body`` was made with the primary key in ``key``.

    :param key: an armoured public key block.
    :param signature: a detached signature, not armoured.
    :raises MalformedError: when key or signature can not be read.
    :raises UnsupportedError: when they are of another kind, or use a weak hash.
    """
    public = _read_key(_first(_unarmoured(key), _PUBLIC_KEY))
    found = _read_signature(_first(signature, _SIGNATURE))
    hasher = hashlib.new(found.hash_algorithm.name, body)
    hasher.update(found.hashed + b"\x04\xff" + len(found.hashed).to_bytes(4, "big"))
    try:
        if isinstance(public, RSAPublicKey) and found.algorithm in _RSA:
            value = _number(found.numbers).rjust((public.key_size + 7) // 8, b"\x00")
            public.verify(value, hasher.digest(), PKCS1v15(), Prehashed(found.hash_algorithm))
        elif isinstance(public, Ed25519PublicKey) and found.algorithm == _EDDSA:
            value = b"".join(_number(found.numbers).rjust(32, b"\x00") for _ in range(2))
            public.verify(value, hasher.digest())
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _unarmoured(text: bytes) -> bytes:
    if len(text) > MAX_BYTES:
        raise MalformedError(f"a key block has at most {MAX_BYTES} bytes")
    lines = text.replace(b"\r\n", b"\n").strip().split(b"\n")
    if lines[0].strip() != ARMOUR or b"" not in lines:
        raise MalformedError("this is not an armoured OpenPGP key block")
    body = [line.strip() for line in lines[lines.index(b"") + 1 : -1]]
    try:
        # The line with the checksum starts with the sign that base64 only ends with.
        return base64.b64decode(b"".join(line for line in body if not line.startswith(b"=")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("the key block is not base64") from error


def _first(data: bytes, tag: int) -> bytes:
    if len(data) > MAX_BYTES:
        raise MalformedError(f"OpenPGP data has at most {MAX_BYTES} bytes")
    for found, body in _packets(BytesIO(data)):
        if found == tag:
            return body
    raise MalformedError("the OpenPGP data has neither key nor signature where one should be")


def _packets(source: BytesIO) -> Iterator[tuple[int, bytes]]:
    while start := source.read(1):
        head = start[0]
        if not head & 0x80:
            raise MalformedError("these bytes are not an OpenPGP packet")
        if head & 0x40:
            yield head & 0x3F, _take(source, _new_length(source))
        elif head & 3 == 3:
            raise UnsupportedError("OpenPGP packets of no stated length are not read")
        else:
            size = int.from_bytes(_take(source, 1 << (head & 3)), "big")
            yield head >> 2 & 0xF, _take(source, size)


def _new_length(source: BytesIO) -> int:
    first = _take(source, 1)[0]
    if first < 192:
        return first
    if first < 224:
        return (first - 192 << 8) + _take(source, 1)[0] + 192
    if first < 255:
        raise UnsupportedError("OpenPGP packets in parts are not read")
    return int.from_bytes(_take(source, 4), "big")


def _read_key(packet: bytes) -> Key:
    source = BytesIO(packet)
    version, _, algorithm = _take(source, 1)[0], _take(source, 4), _take(source, 1)[0]
    if version == 4 and algorithm in _RSA:
        modulus, exponent = (int.from_bytes(_number(source), "big") for _ in range(2))
        if not _MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            raise UnsupportedError(f"an RSA key of {modulus.bit_length()} bits does not sign policies")
        try:
            return RSAPublicNumbers(exponent, modulus).public_key()
        except ValueError as error:
            raise MalformedError("the OpenPGP key is not an RSA key") from error
    if version == 4 and algorithm == _EDDSA and _take(source, _take(source, 1)[0]) == _ED25519:
        point = _number(source)
        if len(point) == 33 and point[0] == 0x40:
            return Ed25519PublicKey.from_public_bytes(point[1:])
    raise UnsupportedError("the OpenPGP key is neither RSA nor Ed25519 of version 4")


def _read_signature(packet: bytes) -> _Signature:
    source = BytesIO(packet)
    version, kind, algorithm, hash_number = _take(source, 4)
    hash_algorithm = _HASHES.get(hash_number)
    if version != 4 or kind != _BINARY or hash_algorithm is None:
        raise UnsupportedError("the OpenPGP signature is not one of version 4 over bytes by SHA-256, SHA-384 or SHA-512")
    size = int.from_bytes(_take(source, 2), "big")
    hashed = packet[:6] + _take(source, size)
    _take(source, int.from_bytes(_take(source, 2), "big"))
    _take(source, 2)  # the start of the digest, which only helps to fail early
    return _Signature(algorithm, hash_algorithm, hashed, source)


def _number(source: BytesIO) -> bytes:
    """Read a number behind its length in bits."""
    bits = int.from_bytes(_take(source, 2), "big")
    return _take(source, (bits + 7) // 8)


def _take(source: BytesIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise MalformedError("the OpenPGP data ends too early")
    return data
