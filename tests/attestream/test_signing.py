import hashlib
import stat

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import ConfigError, MalformedError, SignatureError, UnsupportedError
from attestream.signing import Signer, TrustedKeys
from schemas.base import decode, encode
from schemas.enrolment import Done
from schemas.events import Finding, Revocation, Signed, Standing

FINDING = Finding(
    code="runtime.unknown-file", layer="runtime", severity="failure", culprit="/usr/bin/evil", message="m", remedy="r"
)
REVOCATION = Revocation(
    id="e1",
    agent_id="a1",
    at=1,
    signed_at=2,
    standing=Standing.FAILED,
    enrolment=1,
    policy="p@1",
    findings=[FINDING],
)
ED25519 = Signer(ed25519.Ed25519PrivateKey.generate())
RSA = Signer(rsa.generate_private_key(public_exponent=65537, key_size=2048))
BOTH = pytest.mark.parametrize("signer", [ED25519, RSA], ids=["ed25519", "rsa-pss"])


def private_pem(key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa-pss-sha256"])
def test_key_survives_the_file_and_opens_what_it_signed(tmp_path, algorithm):
    path = tmp_path / "key.pem"
    made = Signer.generate(path, algorithm)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = Signer.load(path)
    assert (loaded.key_id, loaded.algorithm) == (made.key_id, algorithm)
    trusted = TrustedKeys.from_pems([made.public_pem])
    over_the_wire = decode(encode(loaded.sign(REVOCATION)), Signed)
    assert trusted.open(over_the_wire, Revocation) == REVOCATION


def test_key_id_is_the_digest_of_the_public_key_info():
    key = ed25519.Ed25519PrivateKey.generate()
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert Signer(key).key_id == hashlib.sha256(der).hexdigest()[:16]


def test_generate_never_overwrites(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="never overwritten"):
        Signer.generate(path)
    assert path.read_text() == "precious"


def test_generate_refuses_an_unknown_algorithm(tmp_path):
    with pytest.raises(UnsupportedError):
        Signer.generate(tmp_path / "key.pem", "md5")  # type: ignore[arg-type]
    assert not (tmp_path / "key.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_load_refuses_a_key_that_others_may_touch(tmp_path, mode):
    path = tmp_path / "key.pem"
    Signer.generate(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="may be read by others"):
        Signer.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"x" * 70_000,
        private_pem(ec.generate_private_key(ec.SECP256R1())),
        private_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        public_pem(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "text", "huge", "ecdsa", "rsa-1024", "public"],
)
def test_load_refuses_what_is_no_signing_key(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        Signer.load(path)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        Signer.load(tmp_path / "absent.pem")


@BOTH
@given(data=st.data())
def test_any_flipped_bit_is_refused(signer, data):
    trusted = TrustedKeys.from_pems([signer.public_pem])
    signed = signer.sign(REVOCATION)
    field = data.draw(st.sampled_from(["payload", "signature"]))
    value = bytearray(getattr(signed, field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SignatureError):
        trusted.open(msgspec.structs.replace(signed, **{field: bytes(value)}), Revocation)


def test_key_of_another_installation_is_refused():
    with pytest.raises(SignatureError, match="no trusted key"):
        TrustedKeys.from_pems([ED25519.public_pem]).open(RSA.sign(REVOCATION), Revocation)


def test_own_signature_under_another_keys_id_is_refused():
    forged = msgspec.structs.replace(Signer(ed25519.Ed25519PrivateKey.generate()).sign(REVOCATION), key_id=ED25519.key_id)
    with pytest.raises(SignatureError, match="does not verify"):
        TrustedKeys.from_pems([ED25519.public_pem]).open(forged, Revocation)


@pytest.mark.parametrize(
    ("signer", "algorithm"),
    [(ED25519, "rsa-pss-sha256"), (ED25519, "none"), (ED25519, ""), (RSA, "ed25519"), (RSA, "none"), (RSA, "")],
)
def test_algorithm_is_the_keys_own_and_not_the_senders_choice(signer, algorithm):
    signed = msgspec.structs.replace(signer.sign(REVOCATION), algorithm=algorithm)
    with pytest.raises(SignatureError, match="signs with"):
        TrustedKeys.from_pems([signer.public_pem]).open(signed, Revocation)


def test_signed_message_of_another_kind_is_malformed():
    with pytest.raises(MalformedError):
        TrustedKeys.from_pems([ED25519.public_pem]).open(ED25519.sign(Done()), Revocation)


def test_directory_of_keys(tmp_path):
    (tmp_path / "a.pem").write_text(ED25519.public_pem)
    (tmp_path / "b.pem").write_text(RSA.public_pem)
    (tmp_path / "notes.txt").write_text("not read")
    trusted = TrustedKeys.from_directory(tmp_path)
    assert trusted.key_ids == {ED25519.key_id, RSA.key_id}


def test_directory_with_a_bad_key_names_the_file(tmp_path):
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        TrustedKeys.from_directory(tmp_path)
    with pytest.raises(ConfigError, match="can not be read"):
        TrustedKeys.from_directory(tmp_path / "absent")


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(public_exponent=65537, key_size=1024)],
    ids=["ecdsa", "rsa-1024"],
)
def test_weak_or_unknown_public_keys_are_not_trusted(key):
    with pytest.raises(UnsupportedError):
        TrustedKeys.from_pems([public_pem(key)])
