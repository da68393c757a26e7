"""Signed documents: DSSE envelopes.

Source: the DSSE specification, version 1.0 (github.com/secure-systems-lab/dsse), protocol and envelope. Signatures are ECDSA
with SHA-256 on P-256, P-384 or P-521, or Ed25519 (RFC 8032).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

from attestream.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError

POLICY_TYPE: Final = "application/vnd.attestream.policy+json"
"""``payloadType`` of a policy document."""
MAX_ENVELOPE_BYTES: Final = 128 << 20
MAX_SIGNATURES: Final = 32
MAX_KEY_BYTES: Final = 64 << 10
MAX_TYPE: Final = 256
"""Characters of a payload's type."""

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey


class EnvelopeSignature(NamedTuple):
    """One of an envelope's signatures."""

    keyid: str
    """What the signer says about its key; not authenticated. Empty when it says nothing."""
    value: bytes


class Envelope(NamedTuple):
    """A payload and the signatures over it, none of them checked."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return encode_for_signature(self.payload_type, self.payload)


def encode_for_signature(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding (PAE) of a payload."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def is_envelope(document: bytes) -> bool:
    """Return whether ``document`` is a JSON object that has a payload. It may still be malformed."""
    try:
        top = json.loads(document)
    except (ValueError, RecursionError):
        return False
    return isinstance(top, dict) and bool(top.get("payload"))


def parse_envelope(document: bytes) -> Envelope:
    """Return the envelope in ``document``.

    :raises MalformedError: when it is not one.
    :raises TooLargeError: when it is over its bounds.
    """
    if len(document) > MAX_ENVELOPE_BYTES:
        raise TooLargeError(f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes, not {len(document)}")
    try:
        top = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the envelope is not JSON: {error}") from error
    kind, listed = (top.get("payloadType"), top.get("signatures")) if isinstance(top, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(listed, list) or len(kind) > MAX_TYPE:
        raise MalformedError("an envelope is an object with `payload`, `payloadType` and the list `signatures`")
    if len(listed) > MAX_SIGNATURES:
        raise TooLargeError(f"an envelope has at most {MAX_SIGNATURES} signatures, not {len(listed)}")
    try:
        kind.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedError("the envelope's payloadType is not text") from error
    return Envelope(kind, _base64(top.get("payload"), "payload"), tuple(_signature(item) for item in listed))


def _signature(item: Any) -> EnvelopeSignature:
    keyid = item.get("keyid") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not (keyid is None or isinstance(keyid, str)):
        raise MalformedError("a signature of the envelope is an object with `sig`, and `keyid` if it has one")
    return EnvelopeSignature(keyid or "", _base64(item.get("sig"), "sig"))


def _base64(text: Any, name: str) -> bytes:
    """Decode either alphabet of base64 (RFC 4648): both are allowed in envelopes."""
    if not isinstance(text, str):
        raise MalformedError(f"the envelope's `{name}` is not base64")
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"the envelope's `{name}` is not base64") from error


def sign_envelope(
    payload: bytes, key: PrivateKey, *, payload_type: str = POLICY_TYPE, certificate: x509.Certificate | None = None
) -> bytes:
    """Return an envelope with ``payload`` and one signature.

    :param certificate: of ``key``: it becomes the key's id, so that who trusts its issuer can verify the signature.
    :raises SignatureError: when the certificate is another key's.
    """
    if certificate is None:
        keyid = key_fingerprint(key.public_key())
    elif _encoded(certificate.public_key()) != _encoded(key.public_key()):
        raise SignatureError("the certificate does not belong to the signing key", remedy="Give the key's own certificate.")
    else:
        keyid = certificate_keyid(certificate)
    message = encode_for_signature(payload_type, payload)
    value = key.sign(message) if isinstance(key, Ed25519PrivateKey) else key.sign(message, ec.ECDSA(hashes.SHA256()))
    signature = {"keyid": keyid, "sig": base64.b64encode(value).decode("ascii")}
    envelope = {"payload": base64.b64encode(payload).decode("ascii"), "payloadType": payload_type, "signatures": [signature]}
    return json.dumps(envelope).encode("utf-8")


def verify_envelope(envelope: Envelope, keys: Sequence[PublicKey]) -> PublicKey:
    """Return the first of ``keys`` that made a signature of ``envelope``. A key's id is only a hint and does not count.

    :raises SignatureError: when none of them did.
    """
    message = envelope.signed_bytes
    for key in keys:
        if any(verifies(key, signature.value, message) for signature in envelope.signatures):
            return key
    raise SignatureError("no signature of the envelope is by a trusted key", remedy="Give the key of who signed it.")


def verifies(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Return whether ``key`` made ``signature`` over ``message``."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def key_fingerprint(key: PublicKey) -> str:
    """Return the id of a key: SHA-256 of its PEM form, in hex."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def certificate_keyid(certificate: x509.Certificate) -> str:
    """Return the id of a certificate: its PEM form in base64."""
    return base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode("ascii")


def certificate_in(signature: EnvelopeSignature) -> x509.Certificate | None:
    """Return the certificate that the id of the signature's key is, or None when it is no certificate. It is not trusted."""
    if len(signature.keyid) > MAX_KEY_BYTES:
        return None
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(signature.keyid, validate=True))
    except (binascii.Error, ValueError, x509.InvalidVersion):
        return None


def certificate_key(certificate: x509.Certificate) -> PublicKey:
    """Return the key of ``certificate``.

    :raises MalformedError: when it can not be read.
    :raises UnsupportedError: when it is of a kind that signs no policies.
    """
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("the certificate's key can not be read") from error
    return as_verifying_key(public)


def load_signing_key(pem: bytes) -> PrivateKey:
    """Return the private key in ``pem``.

    :raises MalformedError: when it is not one, or is protected by a password.
    :raises UnsupportedError: when it is of another kind.
    """
    try:
        key = load_pem_private_key(pem[:MAX_KEY_BYTES], None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("the signing key is not a private key in PEM without password") from error
    if isinstance(key, Ed25519PrivateKey) or (isinstance(key, ec.EllipticCurvePrivateKey) and _fits(key.curve)):
        return key
    raise UnsupportedError("a policy is signed with a key on P-256, P-384 or P-521, or an Ed25519 key")


def load_verifying_key(pem: bytes) -> PublicKey:
    """Return the public key in ``pem``.

    :raises MalformedError: when it is not one.
    :raises UnsupportedError: when it is of another kind.
    """
    try:
        key = load_pem_public_key(pem[:MAX_KEY_BYTES])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("the key is not a public key in PEM") from error
    return as_verifying_key(key)


def as_verifying_key(key: object) -> PublicKey:
    """Return ``key``.

    :raises UnsupportedError: when it is of another kind.
    """
    if isinstance(key, Ed25519PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and _fits(key.curve)):
        return key
    raise UnsupportedError("policies are signed with keys on P-256, P-384 or P-521, or Ed25519 keys")


def _fits(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, _CURVES)


def _encoded(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
