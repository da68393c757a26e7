"""Signatures appended to a file, as kernel modules and kexec images carry them (template ``ima-modsig``).

Source: Linux ``security/integrity/ima/ima_modsig.c``; the signature is a CMS SignedData without content (RFC 5652), over
the file without its signature, whose digest the entry has as field ``d-modsig``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from attestream.errors import MalformedError
from attestream.ima.digests import check_digest, split_digest
from attestream.ima.keys import KeyRing, SigningKey

MAX_KEYS: Final = 64
"""Keys that are tried for one signature: it names its signer by certificate, which is not at hand."""

MAX_SIGNERS: Final = 8
"""Signers of one signature; those of a kernel's build have one. Each is tried with each key, and the agent says how many."""

_SEQUENCE, _SET, _OCTETS, _OID, _INTEGER, _CONTEXT_0, _CONTEXT_0_OCTETS = 0x30, 0x31, 0x04, 0x06, 0x02, 0xA0, 0x80
_SIGNED_DATA: Final = bytes.fromhex("2a864886f70d010702")
_MESSAGE_DIGEST: Final = bytes.fromhex("2a864886f70d010904")
_HASHES: Final[dict[bytes, tuple[str, hashes.HashAlgorithm]]] = {
    bytes.fromhex("2b0e03021a"): ("sha1", hashes.SHA1()),  # noqa: S303  # whether it counts is for the policy to say
    bytes.fromhex("608648016503040201"): ("sha256", hashes.SHA256()),
    bytes.fromhex("608648016503040202"): ("sha384", hashes.SHA384()),
    bytes.fromhex("608648016503040203"): ("sha512", hashes.SHA512()),
    bytes.fromhex("608648016503040204"): ("sha224", hashes.SHA224()),
}


def verify_appended(blob: bytes, digest: bytes, keys: KeyRing, accepted: Collection[str]) -> bool:
    """Return whether one of ``keys`` signed the file with ``digest``.

    :param blob: field ``modsig``.
    :param digest: field ``d-modsig``.
    :param accepted: names of the hash algorithms that count.
    """
    try:
        algorithm, value = split_digest(check_digest(digest))
        signers = _signers(blob)
    except MalformedError:
        return False
    for hash_oid, attributes, signature in signers:
        name, new = _HASHES.get(hash_oid, ("", None))
        if new is None or name not in accepted:
            continue
        if attributes is None:
            signed = value if algorithm == name else b""
        else:
            signed = hashlib.new(name, attributes, usedforsecurity=False).digest() if _names(attributes, value) else b""
        if signed and any(_is_by(signature, signed, new, key) for key in keys.keys[:MAX_KEYS]):
            return True
    return False


def _is_by(signature: bytes, signed: bytes, new: hashes.HashAlgorithm, key: SigningKey) -> bool:
    try:
        if isinstance(key.public, RSAPublicKey):
            key.public.verify(signature, signed, padding.PKCS1v15(), utils.Prehashed(new))
        else:
            key.public.verify(signature, signed, ec.ECDSA(utils.Prehashed(new)))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _signers(blob: bytes) -> list[tuple[bytes, bytes | None, bytes]]:
    """Return hash algorithm, signed attributes (as they are hashed) and signature of each signer."""
    content = _items(_only(blob, _SEQUENCE))
    if len(content) != 2 or content[0] != (_OID, _SIGNED_DATA) or content[1][0] != _CONTEXT_0:
        raise MalformedError("the appended signature is not CMS SignedData")
    parts = _items(_only(content[1][1], _SEQUENCE))
    if len(parts) < 4 or parts[-1][0] != _SET:
        raise MalformedError("the appended signature has no signers")
    signers = _items(parts[-1][1])
    if len(signers) > MAX_SIGNERS:
        raise MalformedError(f"the appended signature has {len(signers)} signers; {MAX_SIGNERS} are allowed")
    return [_signer(body) for tag, body in signers if tag == _SEQUENCE]


def _signer(body: bytes) -> tuple[bytes, bytes | None, bytes]:
    parts = _items(body)
    # Version, signer, hash, attributes if there are any, signature algorithm, signature.
    attributes = None
    if len(parts) > 3 and parts[3][0] == _CONTEXT_0:
        inner = parts.pop(3)[1]
        attributes = bytes((_SET,)) + _length(len(inner)) + inner
    if len(parts) < 5 or parts[0][0] != _INTEGER or parts[1][0] not in (_SEQUENCE, _CONTEXT_0_OCTETS, _CONTEXT_0):
        raise MalformedError("a signer of the appended signature is not well formed")
    if parts[2][0] != _SEQUENCE or parts[4][0] != _OCTETS:
        raise MalformedError("a signer of the appended signature is not well formed")
    algorithm = _items(parts[2][1])
    return (algorithm[0][1] if algorithm and algorithm[0][0] == _OID else b""), attributes, parts[4][1]


def _names(attributes: bytes, digest: bytes) -> bool:
    """Return whether the signed attributes say that the content has ``digest``, and say it once."""
    found = []
    for _, attribute in _items(_only(attributes, _SET)):
        parts = _items(attribute)
        if parts and parts[0] == (_OID, _MESSAGE_DIGEST):
            found.append(_only(parts[1][1], _OCTETS) if len(parts) == 2 else b"")
    return found == [digest]


def _only(data: bytes, tag: int) -> bytes:
    items = _items(data)
    if len(items) != 1 or items[0][0] != tag:
        raise MalformedError("the appended signature is not well formed")
    return items[0][1]


def _items(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and body of each DER element in ``data``: definite lengths, one-byte tags, nothing left over."""
    items = []
    offset = 0
    while offset < len(data):
        if offset + 2 > len(data) or data[offset] & 0x1F == 0x1F:
            raise MalformedError("the appended signature is not DER")
        tag, length = data[offset], data[offset + 1]
        offset += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or offset + size > len(data):
                raise MalformedError("the appended signature is not DER")
            length = int.from_bytes(data[offset : offset + size], "big")
            offset += size
        if offset + length > len(data):
            raise MalformedError("the appended signature is cut")
        items.append((tag, data[offset : offset + length]))
        offset += length
    return items


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes((size,))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets
