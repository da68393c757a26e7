"""Signatures on certificates, verified over the bytes as they were signed.

Sources: RFC 4055 (RSA PKCS #1 v1.5 and PSS), RFC 5758 (ECDSA).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from attestream.errors import MalformedError, SignatureError, UnsupportedError
from attestream.pki.certificate import Certificate
from attestream.pki.der import Notes, Reader

CertifiedKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
RSA_BITS: Final = range(2048, 8193)
"""Sizes of RSA keys that are strong enough, and not so large that verifying takes long."""

SHA1: Final = "sha1"

_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_RSA: Final = {
    "1.2.840.113549.1.1.5": SHA1,
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA: Final = {
    "1.2.840.10045.4.1": SHA1,
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_HASH_OIDS: Final = {
    "1.3.14.3.2.26": SHA1,
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    SHA1: hashes.SHA1(),  # noqa: S303  # verified only, and reported so that the profile decides
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_NULL: Final = (b"", b"\x05\x00")


class Scheme(NamedTuple):
    """How a certificate is signed."""

    family: str
    """``rsassa``, ``rsapss`` or ``ecdsa``."""
    hash: str
    """``sha1``, ``sha256``, ``sha384`` or ``sha512``."""
    salt: int = 0
    """``rsapss``: bytes of the salt."""


def certified_key(certificate: Certificate) -> CertifiedKey:
    """Return the subject's key.

    :raises UnsupportedError: when it is neither RSA of :data:`RSA_BITS` nor on one of :data:`CURVES`.
    :raises MalformedError: when it can not be parsed.
    """
    try:
        key = load_der_public_key(certificate.public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("the key in the certificate can not be parsed") from error
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in RSA_BITS:
            raise UnsupportedError(f"the certificate's RSA key has {key.key_size} bits")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    raise UnsupportedError("the certificate's key is neither RSA nor on P-256, P-384 or P-521")


def is_of(certificate: Certificate, key: CertifiedKey) -> bool:
    """Return whether ``key`` is the subject's.

    :raises MalformedError: when the certificate's key can not be parsed.
    :raises UnsupportedError: when it is of an unsupported kind.
    """
    return _spki(certified_key(certificate)) == _spki(key)


def _spki(key: CertifiedKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def scheme_of(certificate: Certificate) -> Scheme:
    """Return how the certificate is signed.

    :raises UnsupportedError: when the algorithm or its parameters are not supported.
    """
    oid, parameters = certificate.algorithm, certificate.parameters
    if oid in _RSA and parameters in _NULL:
        return Scheme("rsassa", _RSA[oid])
    if oid in _ECDSA and parameters in _NULL:
        return Scheme("ecdsa", _ECDSA[oid])
    if oid == _PSS:
        return _pss(parameters)
    raise UnsupportedError(f"the certificate's signature algorithm {oid} is not supported")


def _pss(parameters: bytes) -> Scheme:
    """Read RSASSA-PSS-params; both hashes must be the same (RFC 4055 section 3.1)."""
    unsupported = UnsupportedError("the certificate's PSS parameters are not supported")
    try:
        reader = Reader(parameters, Notes()).inside(0x30)
        hash_name, mask_hash, salt = SHA1, SHA1, 20
        if reader.peek() == 0xA0:
            hash_name = _hash(reader.inside(0xA0))
        if reader.peek() == 0xA1:
            mask = reader.inside(0xA1).inside(0x30)
            if mask.oid() != _MGF1:
                raise unsupported
            mask_hash = _hash(mask)
        if reader.peek() == 0xA2:
            salt = reader.inside(0xA2).integer()
        if reader.peek() == 0xA3 and reader.inside(0xA3).integer() != 1:
            raise unsupported
        reader.finish()
    except MalformedError as error:
        raise unsupported from error
    if hash_name != mask_hash or not 0 <= salt <= 64:
        raise unsupported
    return Scheme("rsapss", hash_name, salt)


def _hash(reader: Reader) -> str:
    inner = reader.inside(0x30)
    name = _HASH_OIDS.get(inner.oid())
    if name is None or inner.rest not in _NULL:
        raise UnsupportedError("the certificate's PSS hash is not supported")
    return name


def verify_issued(certificate: Certificate, issuer: Certificate) -> Scheme:
    """Check that the key of ``issuer`` signed ``certificate``; return how.

    :raises SignatureError: when it did not.
    :raises UnsupportedError: when the algorithm or the key is not supported.
    :raises MalformedError: when the issuer's key can not be parsed.
    """
    scheme, key = scheme_of(certificate), certified_key(issuer)
    digest = _HASHES[scheme.hash]
    try:
        if isinstance(key, rsa.RSAPublicKey) and scheme.family == "rsassa":
            key.verify(certificate.signature, certificate.tbs, padding.PKCS1v15(), digest)
        elif isinstance(key, rsa.RSAPublicKey) and scheme.family == "rsapss":
            pss = padding.PSS(padding.MGF1(digest), scheme.salt)
            key.verify(certificate.signature, certificate.tbs, pss, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and scheme.family == "ecdsa":
            key.verify(certificate.signature, certificate.tbs, ec.ECDSA(digest))
        else:
            raise SignatureError("the certificate's signature is of another kind than its issuer's key")
    except InvalidSignature as error:
        raise SignatureError("the issuer's key did not sign the certificate") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnsupportedError(f"the certificate's signature can not be verified: {error}") from error
    return scheme
