"""File signatures of every version and key, and what is none."""

import contextlib
import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, UnsupportedError
from attestream.ima.digests import ALGORITHM_NAMES, digest_field
from attestream.ima.keys import KeyRing, SigningKey, load_key, load_public_der, looks_like_key
from attestream.ima.memo import Generations
from attestream.ima.signatures import SignatureVerdict, parse_signature, verify_signature

RSA = rsa.generate_private_key(65537, 2048)
CURVES = [ec.SECP192R1(), ec.SECP224R1(), ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()]
KEYS = [RSA, *map(ec.generate_private_key, CURVES)]
HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
CONTENT = b"content"


def sign(key, digest, name, *, kind=3, version=2, keyid=None):
    signed = digest
    if version == 3:
        signed = hashlib.new(name, bytes((kind, ALGORITHM_NAMES.index(name))) + digest).digest()
    scheme = utils.Prehashed(HASHES[name])
    value = (
        key.sign(signed, padding.PKCS1v15(), scheme)
        if isinstance(key, rsa.RSAPrivateKey)
        else key.sign(signed, ec.ECDSA(scheme))
    )
    keyid = SigningKey(key.public_key()).keyid if keyid is None else keyid
    head = bytes((kind, version, ALGORITHM_NAMES.index(name))) + keyid.to_bytes(4, "big")
    return head + len(value).to_bytes(2, "big") + value


def sign_version_1(key, digest):
    """As ``evmctl --rsa`` of ima-evm-utils does."""
    signing = SigningKey(key.public_key())
    header = b"\x01" + bytes(4) + b"\x00\x00" + signing.legacy_keyid + b"\x01"
    numbers = key.private_numbers()
    size = key.key_size // 8
    block = b"\x00\x01" + b"\xff" * (size - 23) + b"\x00" + hashlib.sha1(digest + header).digest()
    value = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(size, "big")
    return b"\x03" + header + (8 * size).to_bytes(2, "big") + value


def verdict(signature, digest, *keys, memo=None):
    ring = KeyRing(SigningKey(key.public_key()) for key in keys)
    return verify_signature(parse_signature(signature), digest, ring, memo)


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: getattr(getattr(key, "curve", None), "name", "rsa"))
def test_good_and_bad_signatures(key, name):
    digest = hashlib.new(name, CONTENT).digest()
    field = digest_field(name, digest)
    signature = sign(key, digest, name)

    assert verdict(signature, field, key) is SignatureVerdict.VALID
    assert verdict(signature, digest_field(name, hashlib.new(name, b"other").digest()), key) is SignatureVerdict.INVALID
    assert verdict(signature[:-1] + bytes([signature[-1] ^ 1]), field, key) is SignatureVerdict.INVALID
    assert verdict(signature, field) is SignatureVerdict.NO_KEY


def test_digest_of_another_algorithm_is_not_signed():
    digest = hashlib.sha256(CONTENT).digest()

    assert verdict(sign(RSA, digest, "sha256"), digest_field("sm3", digest), RSA) is SignatureVerdict.INVALID


@pytest.mark.parametrize("key", KEYS[:4:3])
def test_version_3_signs_what_kind_of_digest_it_is(key):
    digest = hashlib.sha256(CONTENT).digest()
    verity, plain = digest_field("verity:sha256", digest), digest_field("sha256", digest)
    signature = sign(key, digest, "sha256", kind=6, version=3)

    assert verdict(signature, verity, key) is SignatureVerdict.VALID
    relabelled = b"\x03" + signature[1:]
    assert verdict(relabelled, plain, key) is SignatureVerdict.INVALID
    assert verdict(sign(key, digest, "sha256"), verity, key) is SignatureVerdict.INVALID
    assert verdict(sign(key, digest, "sha256", kind=3, version=3), plain, key) is SignatureVerdict.VALID


def test_verity_signature_over_the_bare_digest_is_refused():
    """Type 6 exists in version 3 only: in version 2 a file whose content is chosen could stand for a tree."""
    with pytest.raises(MalformedError):
        parse_signature(sign(RSA, hashlib.sha256(CONTENT).digest(), "sha256", kind=6, version=2))


def test_version_1():
    digest = hashlib.sha1(CONTENT).digest()
    signature = sign_version_1(RSA, digest)

    assert verdict(signature, digest_field("sha1", digest), RSA) is SignatureVerdict.VALID
    assert verdict(signature, digest_field("sha1", bytes(20)), RSA) is SignatureVerdict.INVALID
    changed = signature[:2] + b"\x01" + signature[3:]  # its time is signed, too
    assert verdict(changed, digest_field("sha1", digest), RSA) is SignatureVerdict.INVALID
    assert verdict(signature, digest_field("sha1", digest), KEYS[3]) is SignatureVerdict.NO_KEY


def test_two_keys_with_one_id_are_both_tried():
    other = SigningKey(rsa.generate_private_key(65537, 2048).public_key(), 7)
    digest = hashlib.sha256(CONTENT).digest()
    signature = parse_signature(sign(RSA, digest, "sha256", keyid=7))

    for ring in (KeyRing([other, SigningKey(RSA.public_key(), 7)]), KeyRing([SigningKey(RSA.public_key(), 7), other])):
        assert verify_signature(signature, digest_field("sha256", digest), ring) is SignatureVerdict.VALID


def test_memo_changes_no_verdict():
    memo = Generations(8)
    digest = hashlib.sha256(CONTENT).digest()
    good, field = sign(RSA, digest, "sha256"), digest_field("sha256", digest)
    bad = good[:-1] + bytes([good[-1] ^ 1])

    for _ in range(2):
        assert verdict(good, field, RSA, memo=memo) is SignatureVerdict.VALID
        assert verdict(bad, field, RSA, memo=memo) is SignatureVerdict.INVALID
        assert verdict(good, digest_field("sha256", bytes(32)), RSA, memo=memo) is SignatureVerdict.INVALID
    assert len(memo) == 3


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x03", id="one byte"),
        pytest.param(b"\x01" + bytes(20), id="a digest"),
        pytest.param(b"\x04\x04" + bytes(32), id="a digest with algorithm"),
        pytest.param(b"\x02" + bytes(20), id="an HMAC"),
        pytest.param(b"\x03\x02\x04\x00\x00\x00\x00\x00", id="cut header"),
        pytest.param(b"\x03\x02\x04\x00\x00\x00\x00\x00\x02s", id="cut signature"),
        pytest.param(b"\x03\x02\x04\x00\x00\x00\x00\x00\x00s", id="bytes behind"),
        pytest.param(b"\x03\x02\xff\x00\x00\x00\x00\x00\x01s", id="unknown hash"),
        pytest.param(b"\x03\x04\x04\x00\x00\x00\x00\x00\x01s", id="unknown version"),
        pytest.param(b"\x05\x01" + bytes(20), id="portable in version 1"),
        pytest.param(b"\x03\x01" + bytes(16), id="cut version 1"),
        pytest.param(b"\x03\x01" + bytes(4) + b"\x00\x01" + bytes(8) + b"\x01\x00\x08s", id="version 1 over SHA-256"),
        pytest.param(b"\x03\x01" + bytes(4) + b"\x00\x00" + bytes(8) + b"\x01\x00\x10s", id="version 1 of another length"),
    ],
)
def test_what_is_no_signature(data):
    with pytest.raises(MalformedError):
        parse_signature(data)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda data: b"\x03\x02\x04" + data))
def test_any_bytes_are_a_signature_or_refused(data):
    with contextlib.suppress(AttestreamError):
        verdict(data, digest_field("sha256", bytes(32)), RSA)


def certificate(key, identifier=b"\x01\x02\x03\x04\x05"):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now)
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("key", [RSA, KEYS[3]])
def test_forms_of_a_key(key):
    own = SigningKey(key.public_key())
    for encoding in (Encoding.DER, Encoding.PEM):
        forms = [
            key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo),
            key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()),
            certificate(key, None).public_bytes(encoding),
        ]
        for form in forms:
            assert (load_key(form).keyid, load_key(form).der) == (own.keyid, own.der)
            assert looks_like_key(form)
        assert load_key(certificate(key).public_bytes(encoding)).keyid == 0x02030405
    assert load_public_der(own.der, 9).keyid == 9


def test_keys_that_sign_no_files():
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UnsupportedError):
        load_key(other)
    with pytest.raises(MalformedError):
        load_key(b"0\x03abc")
    with pytest.raises(MalformedError):
        load_key(bytes(100_000))


def test_a_certificate_that_is_none_is_no_key():
    """What fuzzing found: of an odd version, or with an extension twice, it raised an error that is not ours."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, KEYS[3].public_key(), 1, now, now)
    for extension in (x509.SubjectKeyIdentifier(b"abcde"), x509.BasicConstraints(ca=False, path_length=None)):
        builder = builder.add_extension(extension, critical=False)
    whole = builder.sign(KEYS[3], hashes.SHA256()).public_bytes(Encoding.DER)
    # The version; the id of the second extension, which becomes that of the first; the curve.
    changes = {"a003020102": "a003020120", "0603551d13": "0603551d0e", "06082a8648ce3d030107": "06082a8648ce3d030105"}
    for part, other in changes.items():
        assert whole.count(bytes.fromhex(part))
        with pytest.raises(MalformedError, match="neither a certificate nor a public key"):
            load_key(whole.replace(bytes.fromhex(part), bytes.fromhex(other)))


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x30" + data))
def test_any_bytes_are_a_key_or_refused(data):
    with contextlib.suppress(AttestreamError):
        load_key(data)
