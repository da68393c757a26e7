"""Signed envelopes."""

from __future__ import annotations

import base64
import datetime as dt
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, SignatureError, UnsupportedError
from attestream.reference.certificates import certified_keys
from attestream.reference.envelope import (
    certificate_key,
    encode_for_signature,
    load_signing_key,
    load_verifying_key,
    parse_envelope,
    sign_envelope,
    verify_envelope,
)

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
KEYS = [
    Ed25519PrivateKey.generate(),
    *(ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)),
]


def certificate(key, *, issuer=None, ca=False, days=10):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca" if ca else "signer")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer[1].subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    signer = issuer[0] if issuer else key
    return made.sign(signer, None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256())


def test_the_encoding_is_that_of_the_specification():
    """The example in the DSSE specification."""
    encoded = encode_for_signature("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    # The length is in bytes.
    assert encode_for_signature("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@pytest.mark.parametrize("key", KEYS)
def test_only_the_signer_verifies(key):
    envelope = parse_envelope(sign_envelope(b"document", key))
    assert envelope.payload == b"document"
    assert verify_envelope(envelope, [KEYS[1].public_key(), key.public_key()])
    with pytest.raises(SignatureError):
        verify_envelope(envelope, [other.public_key() for other in KEYS if other is not key])
    for change in ({"payload": b"Document"}, {"payload_type": "application/json"}, {"signatures": ()}):
        with pytest.raises(SignatureError):
            verify_envelope(envelope._replace(**change), [key.public_key()])


def test_a_certificate_whose_key_can_not_be_used_is_refused():
    der = certificate(KEYS[1]).public_bytes(Encoding.DER)
    other = der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030105"))
    with pytest.raises(MalformedError, match="can not be read"):
        certificate_key(x509.load_der_x509_certificate(other))


def test_keys_are_read_from_pem():
    for key in KEYS:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = load_signing_key(pem).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert load_verifying_key(public) == key.public_key()
    other = rsa.generate_private_key(65537, 2048)
    with pytest.raises(UnsupportedError):
        load_signing_key(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UnsupportedError):
        load_verifying_key(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for broken in (b"", b"-----BEGIN PUBLIC KEY-----\n"):
        with pytest.raises(MalformedError):
            load_verifying_key(broken)
        with pytest.raises(MalformedError):
            load_signing_key(broken)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"payload": "", "payloadType": 1, "signatures": []}',
        b'{"payload": "!", "payloadType": "a", "signatures": []}',
        b'{"payload": "", "payloadType": "a", "signatures": [1]}',
        b'{"payload": "", "payloadType": "a", "signatures": [{"sig": 1}]}',
        b'{"payload": "", "payloadType": "a", "signatures": [{"sig": "", "keyid": 1}]}',
        b'{"payload": "", "payloadType": "\\ud800", "signatures": []}',
        json.dumps({"payload": "", "payloadType": "a", "signatures": [{"sig": ""}] * 33}).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_envelope_is_refused(document):
    with pytest.raises(MalformedError):
        parse_envelope(document)


@given(st.binary(max_size=64))
def test_no_signature_verifies_by_chance(signature):
    document = {"payload": "", "payloadType": "a", "signatures": [{"sig": base64.b64encode(signature).decode()}]}
    with pytest.raises(SignatureError):
        verify_envelope(parse_envelope(json.dumps(document).encode()), [key.public_key() for key in KEYS])


def test_a_certificate_must_be_issued_by_a_trusted_one():
    authority, signer, stranger = KEYS[1], KEYS[2], KEYS[3]
    ca = certificate(authority, ca=True)
    issued = certificate(signer, issuer=(authority, ca))
    envelope = parse_envelope(sign_envelope(b"document", signer, certificate=issued))
    assert verify_envelope(envelope, certified_keys(envelope, [ca], NOW))
    assert certified_keys(envelope, [issued], NOW) == [signer.public_key()]
    own = certificate(stranger)
    forged = parse_envelope(sign_envelope(b"document", stranger, certificate=own))
    for trusted in ([ca], [issued], []):
        with pytest.raises(SignatureError):
            certified_keys(forged, trusted, NOW)
    with pytest.raises(SignatureError, match="not valid at this time"):
        certified_keys(envelope, [ca], NOW + dt.timedelta(days=20))
    # Who was issued a certificate can not issue others.
    below = certificate(stranger, issuer=(signer, issued))
    chained = parse_envelope(sign_envelope(b"document", stranger, certificate=below))
    with pytest.raises(SignatureError):
        certified_keys(chained, [issued], NOW)


def test_a_certificate_of_another_key_is_not_sent():
    with pytest.raises(AttestreamError, match="does not belong"):
        sign_envelope(b"document", KEYS[1], certificate=certificate(KEYS[2]))


def test_a_certificate_of_no_known_version_is_none():
    der = certificate(KEYS[1]).public_bytes(Encoding.DER)
    version = b"\xa0\x03\x02\x01\x02"
    assert version in der
    odd = base64.encodebytes(der.replace(version, b"\xa0\x03\x02\x01\x06", 1))
    keyid = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n" + odd + b"-----END CERTIFICATE-----\n").decode()
    document = {"payload": "", "payloadType": "a", "signatures": [{"sig": "", "keyid": keyid}]}
    with pytest.raises(SignatureError, match="has no certificate"):
        certified_keys(parse_envelope(json.dumps(document).encode()), [certificate(KEYS[1])], NOW)
