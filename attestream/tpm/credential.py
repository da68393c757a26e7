"""Making and opening of credentials: proof that two keys live in one TPM.

Sources: TPM 2.0 Part 1, sections 11.4.10 (KDFa, KDFe) and 24 (credential protection), annexes B and C (secret sharing by RSA
and ECC).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from attestream.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from attestream.tpm.algorithms import curve_named, hash_named
from attestream.tpm.marshalling import Reader, sized
from attestream.tpm.public import Public

_IDENTITY: Final = b"IDENTITY\0"
_MAX_NAME: Final = 66
_MAX_DIGEST: Final = 64
_MAX_OBJECT: Final = 2 + _MAX_DIGEST + 2 + _MAX_DIGEST
_MAX_SECRET: Final = 512


class IdObject(msgspec.Struct, frozen=True, gc=False):
    """TPMS_ID_OBJECT (Part 2, section 12.4.2)."""

    integrity: bytes
    """HMAC over what follows and the object's name."""
    encrypted: bytes
    """The secret as a TPM2B, encrypted."""


def parse_id_object(data: bytes) -> IdObject:
    """Return what is in the TPM2B_ID_OBJECT ``data``.

    :raises MalformedError: when it is cut off, too long or has trailing bytes.
    """
    outer = Reader(data, "the credential")
    inner = outer.sized(_MAX_OBJECT)
    outer.finish()
    integrity = Reader(inner, "the credential").sized(_MAX_DIGEST)
    return IdObject(integrity, inner[2 + len(integrity) :])


def build_id_object(id_object: IdObject) -> bytes:
    """Return the TPM2B_ID_OBJECT of ``id_object``.

    :raises TooLargeError: when a field is longer than a TPM makes it.
    """
    if len(id_object.integrity) > _MAX_DIGEST or len(id_object.encrypted) > 2 + _MAX_DIGEST:
        raise TooLargeError(f"a credential's HMAC has at most {_MAX_DIGEST} bytes, its secret {2 + _MAX_DIGEST}")
    return sized(sized(id_object.integrity) + id_object.encrypted)


def kdf_a(hash_name: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return ``bits`` (a multiple of 8) derived from ``key`` by KDFa; ``context`` is contextU followed by contextV.

    :raises UnsupportedError: when the hash is not known.
    """
    algorithm = hash_named(hash_name)
    tail = label + b"\0" + context + bits.to_bytes(4, "big")
    rounds = -(-bits // (8 * algorithm.size))
    blocks = (hmac.digest(key, i.to_bytes(4, "big") + tail, algorithm.name) for i in range(1, rounds + 1))
    return b"".join(blocks)[: bits // 8]


def kdf_e(hash_name: str, z: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """Return ``bits`` (a multiple of 8) derived by KDFe from ``z``, the x coordinate of a shared point.

    :raises UnsupportedError: when the hash is not known.
    """
    algorithm = hash_named(hash_name)
    tail = z + label + b"\0" + party_u + party_v
    rounds = -(-bits // (8 * algorithm.size))
    return b"".join(algorithm.digest(i.to_bytes(4, "big") + tail) for i in range(1, rounds + 1))[: bits // 8]


def _oaep(ek: Public) -> padding.OAEP:
    primitive = hash_named(ek.name_hash).primitive
    return padding.OAEP(padding.MGF1(primitive), primitive, _IDENTITY)


def _ecc_seed(ek: Public, private: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey, ephemeral: bytes) -> bytes:
    """Return the seed that ``private`` and ``peer`` agree on; ``ephemeral`` is the x coordinate of the sender's point."""
    shared = private.exchange(ec.ECDH(), peer)
    size = curve_named(ek.curve).size
    return kdf_e(ek.name_hash, shared, b"IDENTITY", ephemeral, ek.point[1 : 1 + size], 8 * hash_named(ek.name_hash).size)


def _protect(ek: Public, seed: bytes, name: bytes, data: bytes, *, decrypt: bool) -> bytes:
    """Encrypt or decrypt ``data`` with the storage key of ``seed``. The zero IV is right: a seed is used once."""
    key = kdf_a(ek.name_hash, seed, b"STORAGE", name, ek.symmetric_bits)
    cipher = Cipher(algorithms.AES(key), CFB(bytes(16)))
    context = cipher.decryptor() if decrypt else cipher.encryptor()
    return context.update(data) + context.finalize()


def _integrity(ek: Public, seed: bytes, encrypted: bytes, name: bytes) -> bytes:
    key = kdf_a(ek.name_hash, seed, b"INTEGRITY", b"", 8 * hash_named(ek.name_hash).size)
    return hmac.digest(key, encrypted + name, ek.name_hash)


def protect_secret(ek: Public, seed: bytes, name: bytes, secret: bytes) -> bytes:
    """Return the TPM2B_ID_OBJECT over ``secret`` for the object ``name``; ``seed`` must be fresh (:func:`make_credential`).

    :raises MalformedError: when the secret is empty or longer than a digest of the EK's name hash, or the name is too long.
    :raises UnsupportedError: when the EK is no storage key.
    """
    if not ek.symmetric_bits:
        raise UnsupportedError("a credential can only be made for a key with a symmetric algorithm")
    limit = hash_named(ek.name_hash).size
    if not 1 <= len(secret) <= limit:
        raise MalformedError(f"the secret of a credential has 1 to {limit} bytes, not {len(secret)}")
    if not 2 < len(name) <= _MAX_NAME:
        raise MalformedError(f"the name of an object has 3 to {_MAX_NAME} bytes, not {len(name)}")
    encrypted = _protect(ek, seed, name, sized(secret), decrypt=False)
    return build_id_object(IdObject(_integrity(ek, seed, encrypted, name), encrypted))


def make_credential(
    ek: Public, name: bytes, secret: bytes, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[bytes, bytes]:
    """Return (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET), which only the TPM with ``ek`` opens, holding object ``name``.

    ``random`` makes the seed for an RSA key; OAEP padding and the ephemeral ECC key come from OpenSSL.

    :raises MalformedError: when the secret is empty or longer than a digest of the EK's name hash.
    :raises UnsupportedError: when the EK is no storage key.
    """
    public = ek.key()
    if isinstance(public, rsa.RSAPublicKey):
        seed = random(hash_named(ek.name_hash).size)
        return protect_secret(ek, seed, name, secret), sized(public.encrypt(seed, _oaep(ek)))
    curve = curve_named(ek.curve)
    ephemeral = ec.generate_private_key(curve.primitive)
    numbers = ephemeral.public_key().public_numbers()
    x, y = numbers.x.to_bytes(curve.size, "big"), numbers.y.to_bytes(curve.size, "big")
    seed = _ecc_seed(ek, ephemeral, public, x)
    return protect_secret(ek, seed, name, secret), sized(sized(x) + sized(y))


def _open_seed(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, ek: Public, encrypted_secret: bytes) -> bytes:
    outer = Reader(encrypted_secret, "the encrypted secret")
    inner = outer.sized(_MAX_SECRET)
    outer.finish()
    if isinstance(private, rsa.RSAPrivateKey):
        try:
            return private.decrypt(inner, _oaep(ek))
        except ValueError:
            raise SignatureError("the credential was not made for this endorsement key") from None
    curve = curve_named(ek.curve)
    reader = Reader(inner, "the ephemeral point")
    x, y = (reader.sized(curve.size).rjust(curve.size, b"\0") for _ in range(2))
    reader.finish()
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(curve.primitive, b"\x04" + x + y)
    except ValueError as error:
        raise MalformedError(f"the ephemeral point is not on {curve.name}: {error}") from error
    return _ecc_seed(ek, private, peer, x)


def open_credential(
    ek_private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    ek: Public,
    name: bytes,
    id_object: bytes,
    encrypted_secret: bytes,
) -> bytes:
    """Return the secret of a credential, as TPM2_ActivateCredential does (Part 3, section 12.5). For software TPMs.

    :raises SignatureError: when it was made for another endorsement key or another name, or was changed.
    :raises MalformedError: when a structure is not well formed.
    """
    seed = _open_seed(ek_private, ek, encrypted_secret)
    protected = parse_id_object(id_object)
    if not hmac.compare_digest(protected.integrity, _integrity(ek, seed, protected.encrypted, name)):
        raise SignatureError("the credential was made for another key or name, or was changed")
    secret = Reader(_protect(ek, seed, name, protected.encrypted, decrypt=True), "the credential's secret")
    found = secret.sized(hash_named(ek.name_hash).size)
    secret.finish()
    return found
