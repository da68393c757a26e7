"""Public areas of TPM keys (TPM2B_PUBLIC) and the attributes that make a key an attestation or an endorsement key.

Sources: TPM 2.0 Part 2, sections 8.3 (TPMA_OBJECT), 11.2 (asymmetric parameters) and 12.2 (TPMT_PUBLIC); Part 1, "Names".
"""

from __future__ import annotations

from enum import IntFlag
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestream.errors import EnrolmentError, MalformedError, UnsupportedError
from attestream.tpm.algorithms import (
    ALG_AES,
    ALG_CFB,
    ALG_ECC,
    ALG_NULL,
    ALG_RSA,
    SIGNATURE_HASHES,
    SIGNATURE_SCHEME_NAMES,
    SIGNATURE_SCHEMES,
    curve_by_id,
    curve_named,
    hash_by_id,
    hash_named,
)
from attestream.tpm.marshalling import Reader, sized
from attestream.tpm.names import name_of

RSA_BITS: Final = (2048, 3072, 4096)
RSA_EXPONENT: Final = 65537

KEPT_KEYS: Final = 2048
"""Keys of each kind that are kept ready: of a verifier's agents those that were heard last, some 2 KiB each."""

_MAX_POLICY: Final = 64
_MAX_MODULUS: Final = RSA_BITS[-1] // 8
_MAX_COORDINATE: Final = 66


class Attribute(IntFlag):
    """TPMA_OBJECT. Bits that are missing here are reserved and must be 0."""

    fixedTPM = 1 << 1  # noqa: N815  # the specification's spelling, which messages show
    stClear = 1 << 2  # noqa: N815
    fixedParent = 1 << 4  # noqa: N815
    sensitiveDataOrigin = 1 << 5  # noqa: N815
    userWithAuth = 1 << 6  # noqa: N815
    adminWithPolicy = 1 << 7  # noqa: N815
    firmwareLimited = 1 << 8  # noqa: N815
    svnLimited = 1 << 9  # noqa: N815
    noDA = 1 << 10  # noqa: N815
    encryptedDuplication = 1 << 11  # noqa: N815
    restricted = 1 << 16
    decrypt = 1 << 17
    sign = 1 << 18
    x509sign = 1 << 19


_KNOWN: Final = sum(Attribute)
_BOUND: Final = (
    Attribute.fixedTPM,
    Attribute.fixedParent,
    Attribute.sensitiveDataOrigin,
    Attribute.restricted,
)


class Public(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A parsed TPM2B_PUBLIC of an RSA or ECC key. Small: verifiers hold one for each agent."""

    tpm2b: bytes
    """The bytes it was parsed from."""
    kind: str
    """``rsa`` or ``ecc``."""
    name_hash: str
    attributes: int
    """TPMA_OBJECT."""
    policy: bytes = b""
    """authPolicy."""
    symmetric_bits: int = 0
    """Bits of the AES-CFB key that protects children; 0 for a key that is no parent."""
    scheme: str = ""
    """``rsassa``, ``rsapss`` or ``ecdsa``; empty when the key is not bound to one."""
    scheme_hash: str = ""
    bits: int = 0
    """RSA: size of the modulus."""
    curve: str = ""
    """ECC: ``p256``, ``p384`` or ``p521``."""
    point: bytes = b""
    """ECC: 0x04, x, y at the curve's size (SEC 1, section 2.3.3)."""
    name: bytes
    """nameAlg and the digest of the TPMT_PUBLIC."""

    def key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """Return the key for ``cryptography``.

        The keys used last are kept: a new RSA key costs 2 us, and its first signature 6 more, for what its modulus needs;
        decoding a point costs more than that.
        """
        return _rsa_key(self.tpm2b, self.bits) if self.kind == "rsa" else _ecc_key(self.curve, self.point)


@lru_cache(maxsize=KEPT_KEYS)
def _rsa_key(tpm2b: bytes, bits: int) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(RSA_EXPONENT, int.from_bytes(tpm2b[-bits // 8 :], "big")).public_key()


@lru_cache(maxsize=KEPT_KEYS)
def _ecc_key(curve: str, point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(curve_named(curve).primitive, point)


def _symmetric(reader: Reader) -> int:
    """Read a TPMT_SYM_DEF_OBJECT; return the key's bits, 0 for none."""
    algorithm = reader.number(2)
    if algorithm == ALG_NULL:
        return 0
    bits, mode = reader.number(2), reader.number(2)
    if algorithm != ALG_AES or mode != ALG_CFB or bits not in (128, 192, 256):
        raise UnsupportedError(
            f"the key protects its children with 0x{algorithm:04x}-{bits}, mode 0x{mode:04x}; not AES-CFB"
        )
    return bits


def _scheme(reader: Reader, kind: str) -> tuple[str, str]:
    """Read a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME; return scheme and hash, empty for none."""
    number = reader.number(2)
    if number == ALG_NULL:
        return "", ""
    name = SIGNATURE_SCHEME_NAMES.get(number)
    if name is None or (name == "ecdsa") != (kind == "ecc"):
        raise UnsupportedError(f"scheme 0x{number:04x} is not supported for a key of kind {kind}")
    return name, hash_by_id(reader.number(2)).name


def _rsa(reader: Reader) -> int:
    """Read the RSA parameters after the scheme and the modulus; return its bits."""
    bits, exponent = reader.number(2), reader.number(4)
    modulus = reader.sized(_MAX_MODULUS)
    if bits not in RSA_BITS or exponent not in (0, RSA_EXPONENT):
        raise UnsupportedError(f"RSA keys must have 2048, 3072 or 4096 bits and exponent 65537, not {bits} and {exponent}")
    if 8 * len(modulus) != bits or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise MalformedError(f"the RSA modulus is not an odd number of {bits} bits")
    return bits


def _ecc(reader: Reader) -> tuple[str, bytes]:
    """Read the ECC parameters after the scheme and the point; return the curve and the encoded point."""
    curve = curve_by_id(reader.number(2))
    if reader.number(2) != ALG_NULL:
        raise UnsupportedError("an ECC key with a key derivation scheme is not supported")
    x, y = (reader.sized(_MAX_COORDINATE) for _ in range(2))
    if max(len(x), len(y)) > curve.size:
        raise MalformedError(f"a coordinate of the ECC key is longer than {curve.size} bytes")
    point = b"\x04" + x.rjust(curve.size, b"\0") + y.rjust(curve.size, b"\0")
    try:
        _ecc_key(curve.name, point)
    except ValueError as error:
        raise MalformedError(f"the ECC key is no point on {curve.name}: {error}") from error
    return curve.name, point


def parse_public(tpm2b: bytes) -> Public:
    """Return the key in ``tpm2b``.

    :raises MalformedError: when it is cut off, has trailing bytes, reserved attributes, or is no valid key.
    :raises UnsupportedError: when a type, size, scheme or hash is not supported.
    """
    outer = Reader(tpm2b, "the public area")
    area = outer.sized(0xFFFF)
    outer.finish()
    reader = Reader(area, "the public area")
    kind = {ALG_RSA: "rsa", ALG_ECC: "ecc"}.get(reader.number(2))
    if kind is None:
        raise UnsupportedError(f"a key of type 0x{int.from_bytes(area[:2], 'big'):04x} is neither RSA nor ECC")
    name_hash = hash_by_id(reader.number(2))
    attributes = reader.number(4)
    if attributes & ~_KNOWN:
        raise MalformedError(f"the key sets reserved attributes: 0x{attributes & ~_KNOWN:08x}")
    policy = reader.sized(_MAX_POLICY)
    if len(policy) not in (0, name_hash.size):
        raise MalformedError(f"the key's policy has {len(policy)} bytes, not {name_hash.size}")
    symmetric_bits = _symmetric(reader)
    scheme, scheme_hash = _scheme(reader, kind)
    bits, (curve, point) = (_rsa(reader), ("", b"")) if kind == "rsa" else (0, _ecc(reader))
    reader.finish()
    return Public(
        tpm2b=tpm2b,
        kind=kind,
        name_hash=name_hash.name,
        attributes=attributes,
        policy=policy,
        symmetric_bits=symmetric_bits,
        scheme=scheme,
        scheme_hash=scheme_hash,
        bits=bits,
        curve=curve,
        point=point,
        name=name_of(area),
    )


def build_public(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    *,
    attributes: int,
    name_hash: str = "sha256",
    policy: bytes = b"",
    symmetric_bits: int = 0,
    scheme: str = "",
    scheme_hash: str = "",
) -> bytes:
    """Return the TPM2B_PUBLIC of ``key``. The counterpart of :func:`parse_public`, for software TPMs and tests.

    :raises UnsupportedError: when scheme, hash or curve is not known.
    """

    def u16(number: int) -> bytes:
        return number.to_bytes(2, "big")

    signing = u16(SIGNATURE_SCHEMES[scheme]) + u16(hash_named(scheme_hash).tpm_id) if scheme else u16(ALG_NULL)
    symmetric = u16(ALG_AES) + u16(symmetric_bits) + u16(ALG_CFB) if symmetric_bits else u16(ALG_NULL)
    head = u16(hash_named(name_hash).tpm_id) + attributes.to_bytes(4, "big") + sized(policy) + symmetric + signing
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
        return sized(u16(ALG_RSA) + head + u16(key.key_size) + bytes(4) + sized(modulus))
    curve = curve_named({"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}.get(key.curve.name, key.curve.name))
    numbers = key.public_numbers()
    point = sized(numbers.x.to_bytes(curve.size, "big")) + sized(numbers.y.to_bytes(curve.size, "big"))
    return sized(u16(ALG_ECC) + head + u16(curve.tpm_id) + u16(ALG_NULL) + point)


def _check(public: Public, role: str, wanted: tuple[Attribute, ...], unwanted: tuple[Attribute, ...]) -> None:
    for attribute in wanted:
        if not public.attributes & attribute:
            raise EnrolmentError(f"the {role} key lacks the attribute {attribute.name}")
    for attribute in unwanted:
        if public.attributes & attribute:
            raise EnrolmentError(f"the {role} key has the attribute {attribute.name}, which it must not have")
    if public.name_hash not in SIGNATURE_HASHES:
        raise EnrolmentError(f"the {role} key is named by {public.name_hash}, which is not collision resistant")


def check_attestation_key(public: Public) -> None:
    """Check that ``public`` may be an attestation key: it never leaves its TPM and signs nothing but what its TPM made
    (Part 1, "Object Attributes": a restricted signing key).

    :raises EnrolmentError: naming the attribute or scheme that is wrong.
    """
    _check(public, "attestation", (*_BOUND, Attribute.sign), (Attribute.decrypt,))
    if not public.scheme:
        raise EnrolmentError("the attestation key is bound to no signature scheme")
    if public.scheme_hash not in SIGNATURE_HASHES:
        raise EnrolmentError(f"the attestation key signs with {public.scheme_hash}, which is not accepted")
    if public.symmetric_bits:
        raise EnrolmentError("the attestation key has a symmetric algorithm, which only a storage key has")


def check_endorsement_key(public: Public) -> None:
    """Check that ``public`` may be an endorsement key: a restricted decryption key that never leaves its TPM
    (TCG EK Credential Profile, default EK templates).

    :raises EnrolmentError: naming the attribute or algorithm that is wrong.
    """
    _check(public, "endorsement", (*_BOUND, Attribute.decrypt), (Attribute.sign, Attribute.encryptedDuplication))
    if not public.symmetric_bits:
        raise EnrolmentError("the endorsement key has no symmetric algorithm")
    if public.scheme:
        raise EnrolmentError("the endorsement key is bound to a signature scheme")
