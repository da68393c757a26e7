"""Envelopes that were signed with a certificate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from attestream.errors import MalformedError, SignatureError
from attestream.reference.envelope import MAX_KEY_BYTES, Envelope, PublicKey, certificate_in, certificate_key

_NOT_ISSUED = (
    *(x509.ExtensionNotFound, x509.DuplicateExtension, InvalidSignature, UnsupportedAlgorithm),
    *(ValueError, TypeError),
)
"""What is raised where a certificate is not issued by another, or can not be read to its end."""


def load_certificate(pem: bytes) -> x509.Certificate:
    """Return the first certificate in ``pem``.

    :raises MalformedError: when there is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem[:MAX_KEY_BYTES])
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("this is not a certificate in PEM") from error


def certified_keys(envelope: Envelope, trusted: Sequence[x509.Certificate], now: dt.datetime) -> list[PublicKey]:
    """Return the keys of the certificates in ``envelope`` that are trusted: one of ``trusted``, or issued by one directly.

    :param now: reference time, with its time zone. Certificate and issuer must be valid at it.
    :raises SignatureError: naming why a certificate is not trusted, when none is.
    :raises MalformedError: when the key of a trusted one can not be read.
    :raises UnsupportedError: when it is of a kind that signs no policies.
    """
    keys: list[PublicKey] = []
    reason = "the envelope has no certificate"
    for signature in envelope.signatures:
        certificate = certificate_in(signature)
        if certificate is None:
            continue
        issuer = next((one for one in trusted if one == certificate or _issued(certificate, one)), None)
        if issuer is None:
            reason = "the signer's certificate is not issued by a trusted one"
        elif not all(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in (certificate, issuer)):
            reason = "the signer's certificate, or its issuer's, is not valid at this time"
        else:
            keys.append(certificate_key(certificate))
    if not keys:
        raise SignatureError(reason, remedy="Give the certificate of the signer or of its issuer.")
    return keys


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except _NOT_ISSUED:
        return False
    return constraints.ca
