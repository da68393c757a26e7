"""Keys, credentials and certifications as the registrar exchanges them."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError, SignatureError, UnsupportedError
from attestream.interop.credentials import build_credential_file, parse_credential_file, registration_tag
from attestream.interop.identity import check_certified_by_iak, check_certified_by_itself
from attestream.interop.keys import pem, public_of_pem, read_public
from attestream.tpm.certification import Certification, build_certification
from attestream.tpm.credential import make_credential
from attestream.tpm.public import build_public, parse_public
from attestream.tpm.structures import ClockInfo
from devtools.soft_tpm import SoftTpm

AGENT = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
AK = 0x0005_0072


def certification(name, extra_data):
    return build_certification(Certification(b"", extra_data, ClockInfo(1, 1, 0, safe=True), 1, name, b""))


@pytest.fixture
def pair(keys):
    return SoftTpm(ek="p256", ak="p256", keys=keys), SoftTpm(ek="p256", ak="p256", keys=keys)


@pytest.mark.parametrize("extra", [hashlib.sha256(AGENT.encode()).digest(), AGENT.encode()])
def test_an_iak_vouches_for_the_key_and_the_agent(pair, extra):
    iak, ak = pair
    attest = certification(ak.ak_name, extra)
    publics = parse_public(ak.ak_public), parse_public(iak.ak_public)
    assert check_certified_by_iak(AGENT, *publics, attest, iak.sign(attest)).name == ak.ak_name
    for agent, certified in (("another-agent", publics[0]), (AGENT, publics[1])):
        with pytest.raises(SignatureError):
            check_certified_by_iak(agent, certified, publics[1], attest, iak.sign(attest))
    with pytest.raises(SignatureError):
        check_certified_by_iak(AGENT, *publics, attest, ak.sign(attest))


def test_a_key_vouches_for_itself_over_a_challenge(pair):
    ak, other = pair
    attest = certification(ak.ak_name, b"challenge")
    public = parse_public(ak.ak_public)
    check_certified_by_itself(public, b"challenge", attest, ak.sign(attest))
    with pytest.raises(SignatureError):
        check_certified_by_itself(public, b"another", attest, ak.sign(attest))
    foreign = certification(other.ak_name, b"challenge")
    with pytest.raises(SignatureError):
        check_certified_by_itself(public, b"challenge", foreign, ak.sign(foreign))


def test_a_credential_file_carries_what_the_tpm_opens(keys):
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    blob = build_credential_file(*make_credential(parse_public(tpm.ek_public), tpm.ak_name, b"secret"))
    assert blob[:8].hex() == "badcc0de00000001"
    assert tpm.activate(*parse_credential_file(blob)) == b"secret"
    for cut in (*(blob[:end] for end in range(len(blob))), blob + b"\0", b"\0" + blob[1:], blob[:7] + b"\2" + blob[8:]):
        with pytest.raises(MalformedError):
            parse_credential_file(cut)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_credential_file_or_malformed(data):
    for candidate in (data, bytes.fromhex("badcc0de00000001") + data):
        try:
            assert build_credential_file(*parse_credential_file(candidate)) == candidate
        except MalformedError:
            continue


def test_the_tag_is_keyed_with_the_text_of_the_secret():
    expected = "90ca39172be387df63b416efafe856581be30ab570a4288c636a425e82de48c6749d9bf3ba69ebeb8cd39cdf0c41427b"
    assert registration_tag(b"s" * 32, AGENT) == expected


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
def test_a_key_survives_pem(keys, kind):
    public = parse_public(SoftTpm(ek="p256", ak=kind, keys=keys).ak_public)
    assert read_public(public.tpm2b) == public
    assert public_of_pem(pem(public)).key().public_numbers() == public.key().public_numbers()


def test_what_is_no_key_of_a_tpm_is_refused():
    def text(key):
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    for key in (
        ed25519.Ed25519PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.RSAPublicNumbers(3, (1 << 2047) + 1).public_key(),
    ):
        with pytest.raises(UnsupportedError):
            public_of_pem(text(key))
    with pytest.raises(MalformedError):
        public_of_pem("-----BEGIN PUBLIC KEY-----")


def test_a_key_on_a_curve_that_is_not_known_here_is_refused():
    """What fuzzing found: such a key raises neither ValueError nor anything of ours."""
    der = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    other = der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030105"))
    text = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(other).decode()}\n-----END PUBLIC KEY-----\n"
    with pytest.raises(UnsupportedError, match="can not be used"):
        public_of_pem(text)


@pytest.mark.parametrize(("curve", "allowed"), [(ec.SECP256R1(), False), (ec.SECP384R1(), False), (ec.SECP521R1(), True)])
def test_a_point_has_one_name(curve, allowed):
    """Coordinates without their leading zeros are the same key under another name; on P-521 both forms are in use."""
    size = (curve.key_size + 7) // 8
    keys = (ec.derive_private_key(scalar, curve).public_key() for scalar in range(1, 5000))
    key = next(key for key in keys if not key.public_numbers().x >> (8 * size - 8))
    area = build_public(key, attributes=AK, scheme="ecdsa", scheme_hash="sha256")
    assert read_public(area).key().public_numbers() == key.public_numbers()
    short = area[2:22] + (size - 1).to_bytes(2, "big") + area[25:]
    short = len(short).to_bytes(2, "big") + short
    assert parse_public(short).key().public_numbers() == key.public_numbers()
    if allowed:
        read_public(short)
    else:
        with pytest.raises(MalformedError, match="full size"):
            read_public(short)


def test_the_secret_is_not_its_text():
    assert registration_tag(b"a", AGENT) != registration_tag(base64.b64encode(b"a"), AGENT)
