"""Public keys that sign files, and the ids by which signatures name them.

Source: Linux ``security/integrity/digsig_asymmetric.c`` and ``crypto/asymmetric_keys`` (version 2 and 3: the last four bytes
of the subject key identifier), ``security/integrity/digsig.c`` and ``lib/digsig.c`` (version 1).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from attestream.errors import MalformedError, UnsupportedError

MAX_KEY_BYTES: Final = 16_384
"""Of a key or certificate in any form."""
MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 8192

# What the loaders raise for bytes that are no key. The last three are no ValueErrors.
_NO_KEY: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


class SigningKey:
    """A public key and its ids.

    :param keyid: when it is not the one that follows from the key: certificates may name another.
    """

    __slots__ = ("der", "fingerprint", "keyid", "legacy_keyid", "named", "public")

    def __init__(self, public: RSAPublicKey | EllipticCurvePublicKey, keyid: int | None = None) -> None:
        self.public = public
        self.keyid = derived_keyid(public) if keyid is None else keyid
        """Of signatures of version 2 and 3."""
        self.named = keyid is not None
        """Whether a certificate or a stored ring gave the id, rather than the key itself."""
        self.legacy_keyid: bytes = _legacy_keyid(public) if isinstance(public, RSAPublicKey) else b""
        """Of signatures of version 1; empty for a key that can not make them."""
        self.der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = hashlib.sha256(self.der).digest()


class KeyRing:
    """Keys by id. It never changes: :meth:`plus` makes another."""

    __slots__ = ("_by_id", "_by_legacy_id", "keys")

    def __init__(self, keys: Iterable[SigningKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_id: dict[int, tuple[SigningKey, ...]] = {}
        self._by_legacy_id: dict[bytes, tuple[SigningKey, ...]] = {}
        for key in self.keys:
            self._by_id[key.keyid] = (*self._by_id.get(key.keyid, ()), key)
            if key.legacy_keyid:
                self._by_legacy_id[key.legacy_keyid] = (*self._by_legacy_id.get(key.legacy_keyid, ()), key)

    def with_id(self, keyid: int) -> tuple[SigningKey, ...]:
        """Return the keys that a signature of version 2 or 3 with ``keyid`` may be by: two keys can share an id."""
        return self._by_id.get(keyid, ())

    def with_legacy_id(self, keyid: bytes) -> tuple[SigningKey, ...]:
        """Return the keys that a signature of version 1 with ``keyid`` may be by."""
        return self._by_legacy_id.get(keyid, ())

    def plus(self, keys: Iterable[SigningKey]) -> KeyRing:
        """Return a ring with these keys and ``keys``."""
        return KeyRing((*self.keys, *keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self.keys)


def derived_keyid(public: RSAPublicKey | EllipticCurvePublicKey) -> int:
    """Return the id of a key whose certificate names none: the last four bytes of the SHA-1 digest of its bit string."""
    if isinstance(public, RSAPublicKey):
        raw = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        raw = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return int.from_bytes(hashlib.sha1(raw, usedforsecurity=False).digest()[-4:], "big")


def load_key(data: bytes) -> SigningKey:
    """Return the public key in ``data``: a certificate, a public key or a private key, in DER or PEM.

    :raises MalformedError: when it is none of them.
    :raises UnsupportedError: when it is a key that signs no files: neither RSA nor on an elliptic curve, or of an odd size.
    """
    if len(data) > MAX_KEY_BYTES:
        raise MalformedError(f"a key of {len(data)} bytes is over the limit of {MAX_KEY_BYTES}")
    for load in _LOADERS:
        try:
            public, keyid = load(data)
        except _NO_KEY:
            continue
        return SigningKey(_checked(public), keyid)
    raise MalformedError("these bytes are neither a certificate nor a public key")


def looks_like_key(data: bytes) -> bool:
    """Return whether ``data`` may be a key at all: cheap, and True for everything that :func:`load_key` takes."""
    return data[:1] == b"\x30" or b"-----BEGIN " in data[:MAX_KEY_BYTES]


def load_public_der(data: bytes, keyid: int) -> SigningKey:
    """Return the key with the SubjectPublicKeyInfo ``data``, as :attr:`SigningKey.der` gave it, and the id ``keyid``.

    :raises MalformedError: when it is not one.
    """
    try:
        public = load_der_public_key(data)
    except _NO_KEY as error:
        raise MalformedError("these bytes are not a public key") from error
    return SigningKey(_checked(public), keyid)


def _checked(public: object) -> RSAPublicKey | EllipticCurvePublicKey:
    if isinstance(public, RSAPublicKey):
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            raise UnsupportedError(f"an RSA key of {public.key_size} bits does not sign files")
        return public
    if isinstance(public, EllipticCurvePublicKey):
        return public
    raise UnsupportedError(f"a key of kind {type(public).__name__} does not sign files")


def _legacy_keyid(public: RSAPublicKey) -> bytes:
    numbers = public.public_numbers()
    # Version, time 0, algorithm RSA, two numbers, each behind its length in bits.
    packed = bytes((1, 0, 0, 0, 0, 0, 2)) + b"".join(
        number.bit_length().to_bytes(2, "big") + number.to_bytes((number.bit_length() + 7) // 8, "big")
        for number in (numbers.n, numbers.e)
        if number.bit_length() < 1 << 16
    )
    return hashlib.sha1(packed, usedforsecurity=False).digest()[12:]


def _certificate(data: bytes, load: Callable[[bytes], x509.Certificate]) -> tuple[object, int | None]:
    with warnings.catch_warnings():
        # Odd serial numbers and the like say nothing about the key.
        warnings.simplefilter("ignore")
        certificate = load(data)
        public = certificate.public_key()
        try:
            identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return public, None
    return public, int.from_bytes(identifier[-4:], "big") if len(identifier) >= 4 else None


def _der_certificate(data: bytes) -> tuple[object, int | None]:
    return _certificate(data, x509.load_der_x509_certificate)


def _pem_certificate(data: bytes) -> tuple[object, int | None]:
    return _certificate(data, x509.load_pem_x509_certificate)


def _der_public(data: bytes) -> tuple[object, int | None]:
    return load_der_public_key(data), None


def _pem_public(data: bytes) -> tuple[object, int | None]:
    return load_pem_public_key(data), None


def _der_private(data: bytes) -> tuple[object, int | None]:
    return _public_part(load_der_private_key(data, None)), None


def _pem_private(data: bytes) -> tuple[object, int | None]:
    return _public_part(load_pem_private_key(data, None)), None


def _public_part(private: object) -> object:
    return private.public_key() if isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey) else private


_LOADERS: Final = (_der_certificate, _pem_certificate, _der_public, _pem_public, _der_private, _pem_private)
