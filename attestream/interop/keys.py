"""Public keys as the incumbent exchanges them."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from attestream.errors import MalformedError, UnsupportedError
from attestream.tpm.algorithms import curve_named
from attestream.tpm.marshalling import sized
from attestream.tpm.public import RSA_EXPONENT, Public, build_public, parse_public


def read_public(tpm2b: bytes) -> Public:
    """Return the key in a TPM2B_PUBLIC.

    The coordinates of a point must have the full size of the curve, so that one point has one name; on P-521 the first byte,
    of which only one bit is used, may be left out.

    :raises MalformedError: when it is not well formed.
    :raises UnsupportedError: when a type, size, scheme or hash is not supported.
    """
    public = parse_public(tpm2b)
    if public.kind == "ecc":
        size = curve_named(public.curve).size
        x, y = (_written(public.point[start : start + size], public.curve) for start in (1, 1 + size))
        if not any(tpm2b.endswith(sized(one) + sized(other)) for one in x for other in y):
            raise MalformedError(f"a coordinate of the key is not written with the full size of {public.curve}")
    return public


def _written(coordinate: bytes, curve: str) -> tuple[bytes, ...]:
    """Return the forms in which a coordinate may be written."""
    return (coordinate, coordinate[1:]) if curve == "p521" and not coordinate[0] else (coordinate,)


def pem(public: Public) -> str:
    """Return the key as SubjectPublicKeyInfo in PEM."""
    return public.key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def public_of_pem(text: str) -> Public:
    """Return the key in a PEM text for checking signatures; it has no attributes, so it can not stand for a TPM's key.

    :raises MalformedError: when it is not a public key in PEM.
    :raises UnsupportedError: when it is neither RSA nor on a supported curve.
    """
    try:
        key = load_pem_public_key(text.encode("utf-8"))
    except ValueError as error:
        raise MalformedError(f"this is not a public key in PEM: {error}") from error
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(f"the key can not be used: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise UnsupportedError("the key is neither RSA nor ECC")
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e != RSA_EXPONENT:
        raise UnsupportedError(f"RSA keys must have exponent {RSA_EXPONENT}")
    return parse_public(build_public(key, attributes=0))
