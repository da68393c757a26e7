"""Signatures of the incumbent's runtime policies: DSSE envelopes, and detached signatures."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestream.errors import MalformedError, RefusedError, SignatureError
from attestream.interop.openpgp import ARMOUR, verify_openpgp
from attestream.reference.envelope import (
    Envelope,
    PublicKey,
    certificate_in,
    certificate_key,
    is_envelope,
    load_verifying_key,
    parse_envelope,
    verifies,
    verify_envelope,
)

PAYLOAD_TYPE: Final = "application/vnd.keylime+json"
_PUBLIC_KEY: Final = b"-----BEGIN PUBLIC KEY-----"


def open_signed_policy(document: bytes, key: bytes) -> bytes:
    """Return the policy in an envelope that the holder of ``key`` signed.

    :param key: PEM of an elliptic curve key; whether it signed as a key or with a certificate makes no difference.
    :raises SignatureError: when it is not signed, or not by this key.
    :raises MalformedError: when envelope or key can not be read.
    """
    if not key:
        raise SignatureError("a signature is required, and there is no key to verify it with")
    if not is_envelope(document):
        raise SignatureError("the runtime policy is not signed", remedy="Put it into an envelope and sign it.")
    envelope = parse_envelope(document)
    verify_envelope(envelope, [_elliptic(load_verifying_key(key))])
    return envelope.payload


def open_with_own_certificate(document: bytes) -> bytes:
    """Return the policy in an envelope that one of the certificates in it verifies.

    It shows that the envelope was not damaged, and nothing about who made it: anybody can sign with a certificate.

    :raises SignatureError: when a certificate is missing, or none verifies a signature.
    :raises MalformedError: when the envelope can not be read.
    """
    envelope = parse_envelope(document)
    verify_envelope(envelope, [_own_key(envelope, number) for number in range(len(envelope.signatures))])
    return envelope.payload


def _own_key(envelope: Envelope, number: int) -> PublicKey:
    certificate = certificate_in(envelope.signatures[number])
    if certificate is None:
        raise SignatureError(
            f"signature {number} of the envelope comes without certificate", remedy="Give the signer's key."
        )
    return _elliptic(certificate_key(certificate))


def verify_detached(key: bytes, signature: bytes, body: bytes) -> bool:
    """Return whether ``signature`` over ``body`` was made with ``key``: ECDSA with SHA-256 in DER, or OpenPGP.

    :param key: PEM of an elliptic curve key, or an OpenPGP key block. A key that is neither verifies nothing.
    """
    head = key.lstrip().split(b"\n", 1)[0].strip()
    try:
        if head == ARMOUR:
            return verify_openpgp(key, signature, body)
        return head == _PUBLIC_KEY and verifies(_elliptic(load_verifying_key(key)), signature, body)
    except (MalformedError, RefusedError):
        return False


def _elliptic(key: PublicKey) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SignatureError("the incumbent's policies are signed with elliptic curve keys only")
    return key
