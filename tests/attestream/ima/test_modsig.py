"""Appended signatures, as the kernel's sign-file makes them and as others do."""

import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestream.ima.digests import digest_field
from attestream.ima.keys import KeyRing, SigningKey
from attestream.ima.modsig import MAX_SIGNERS, verify_appended

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
CONTENT = b"a kernel module"
STRONG = frozenset({"sha256", "sha384", "sha512"})


def made(*options, content=CONTENT):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modules")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now).not_valid_after(now).sign(KEY, hashes.SHA256())
    signer = PKCS7SignatureBuilder().set_data(content).add_signer(certificate, KEY, hashes.SHA256())
    return signer.sign(Encoding.DER, [PKCS7Options.DetachedSignature, PKCS7Options.Binary, *options])


def verified(blob, digest=None, key=KEY, accepted=STRONG):
    field = digest_field("sha256", hashlib.sha256(CONTENT).digest()) if digest is None else digest
    return verify_appended(blob, field, KeyRing([SigningKey(key.public_key())]), accepted)


@pytest.mark.parametrize("options", [(PKCS7Options.NoAttributes, PKCS7Options.NoCerts), (PKCS7Options.NoCapabilities,), ()])
def test_signatures_with_and_without_attributes(options):
    blob = made(*options)

    assert verified(blob)
    assert not verified(blob, key=OTHER)
    assert not verified(blob, digest_field("sha256", bytes(32)))
    assert not verified(blob, accepted={"sha512"})
    assert not verified(blob, b"")


def test_signature_of_other_content():
    assert not verified(made(PKCS7Options.NoAttributes, content=b"another module"))
    assert not verified(made(content=b"another module"))


@given(st.data())
def test_changed_signatures_are_refused_or_unchanged_in_what_counts(data):
    blob = bytearray(BLOB)
    end = data.draw(st.integers(1, len(blob)))
    assert not verified(bytes(blob[: end - 1]))
    blob[data.draw(st.integers(len(blob) - 256, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    assert not verified(bytes(blob))


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data):
    assert not verified(data)


BLOB = made(PKCS7Options.NoAttributes, PKCS7Options.NoCerts)


def der(tag, *parts):
    body = b"".join(parts)
    size = len(body).to_bytes(4, "big")
    return bytes((tag, 0x84)) + size + body


def signed_by(count):
    """A signature with ``count`` signers, none of which is right."""
    sha256 = der(0x30, der(0x06, bytes.fromhex("608648016503040201")))
    signer = der(0x30, der(0x02, b"\x01"), der(0x30), sha256, der(0x30), der(0x04, bytes(KEY.key_size // 8 - 1) + b"\x01"))
    content = der(0x30, der(0x02, b"\x01"), der(0x31), der(0x30), der(0x31, *([signer] * count)))
    return der(0x30, der(0x06, bytes.fromhex("2a864886f70d010702")), der(0xA0, content))


class Counted:
    """Keys that say how often they were tried."""

    def __init__(self):
        self.tried = 0

    @property
    def keys(self):
        self.tried += 1
        return (SigningKey(KEY.public_key()),)


def test_signers_are_not_tried_without_bound():
    for count, tried in ((1, 1), (MAX_SIGNERS, MAX_SIGNERS), (MAX_SIGNERS + 1, 0), (3000, 0)):
        keys = Counted()
        assert not verify_appended(signed_by(count), digest_field("sha256", bytes(32)), keys, STRONG)
        assert keys.tried == tried
