"""The CA certificates that are trusted to vouch for TPMs."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final

from attestream.errors import MalformedError, TooLargeError
from attestream.pki.certificate import Certificate, parse_certificate
from attestream.pki.names import Name

MAX_FILE: Final = 1 << 20
"""Bytes of a file of certificates."""

_ARMOUR: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----")
_MARK: Final = b"-----BEGIN "


class TrustStore:
    """Certificates by subject. Each is an anchor: a path ends at the first one, whether it is a root or an intermediate.

    That a certificate stands here is an operator's decision. Whether it may issue is still judged by what it says.
    """

    def __init__(self, certificates: Iterable[Certificate] = (), *, distrusted: Iterable[bytes] = ()) -> None:
        """:param distrusted: SHA-256 digests of the public keys (SubjectPublicKeyInfo) that no path may contain, whether a
        certificate of the key stands here or comes from an agent; or of single certificates (DER).
        """
        self._distrusted = frozenset(distrusted)
        self._by_subject: dict[object, dict[bytes, Certificate]] = {}
        for certificate in certificates:
            self._by_subject.setdefault(certificate.subject.key, {}).setdefault(certificate.der, certificate)

    @classmethod
    def of(cls, files: Iterable[bytes]) -> TrustStore:
        """Return the store of the certificates in the contents of files, see :func:`read_certificates`.

        :raises MalformedError: when one is not a certificate.
        """
        return cls(certificate for data in files for certificate in read_certificates(data))

    def __len__(self) -> int:
        return sum(map(len, self._by_subject.values()))

    def __contains__(self, certificate: Certificate) -> bool:
        return certificate.der in self._by_subject.get(certificate.subject.key, ())

    def __add__(self, other: TrustStore) -> TrustStore:
        return TrustStore((*self.certificates(), *other.certificates()), distrusted=self._distrusted | other._distrusted)

    def distrusts(self, certificate: Certificate) -> bool:
        """Whether no path may contain the certificate's key, or this certificate of it."""
        if not self._distrusted:
            return False
        return not self._distrusted.isdisjoint((key_digest(certificate), hashlib.sha256(certificate.der).digest()))

    def certificates(self) -> tuple[Certificate, ...]:
        """Return all certificates."""
        return tuple(one for same in self._by_subject.values() for one in same.values())

    def named(self, name: Name) -> tuple[Certificate, ...]:
        """Return the certificates whose subject is ``name``."""
        return tuple(self._by_subject.get(name.key, {}).values())


def key_digest(certificate: Certificate) -> bytes:
    """Return the SHA-256 digest of a certificate's public key (SubjectPublicKeyInfo)."""
    return hashlib.sha256(certificate.public_key).digest()


def read_certificates(data: bytes) -> list[Certificate]:
    """Return the certificates in a file: one in DER, or any number in PEM (RFC 7468) with other text around them.

    :raises TooLargeError: when it is larger than :data:`MAX_FILE`.
    :raises MalformedError: when one is not a certificate, or there is none.
    """
    if len(data) > MAX_FILE:
        raise TooLargeError(f"the file of certificates is larger than {MAX_FILE} bytes")
    if _MARK not in data:
        return [parse_certificate(data)]
    try:
        found = [binascii.a2b_base64(match[1]) for match in _ARMOUR.finditer(data)]
    except binascii.Error as error:
        raise MalformedError("a certificate's PEM is not base64") from error
    # Another kind of PEM block, or a damaged one, would otherwise be overlooked.
    if len(found) != data.count(_MARK):
        raise MalformedError("a PEM block is damaged or no certificate")
    return [parse_certificate(der) for der in found]
