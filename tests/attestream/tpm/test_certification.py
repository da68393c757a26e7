import contextlib

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, SignatureError, TooLargeError, UnsupportedError
from attestream.tpm.certification import Certification, build_certification, parse_certification, verify_certification
from attestream.tpm.public import Attribute, Public, build_public, parse_public
from attestream.tpm.structures import ClockInfo, Quote, Signature, build_quote, build_signature
from devtools.soft_tpm import KeyPool

NAMES = st.binary(max_size=66)
CERTIFICATIONS = st.builds(
    Certification,
    signer=NAMES,
    extra_data=NAMES,
    clock=st.builds(
        ClockInfo,
        clock=st.integers(0, 2**64 - 1),
        reset_count=st.integers(0, 2**32 - 1),
        restart_count=st.integers(0, 2**32 - 1),
        safe=st.booleans(),
    ),
    firmware=st.integers(0, 2**64 - 1),
    name=NAMES,
    qualified_name=NAMES,
)
NAME = b"\x00\x0b" + b"n" * 32
CERTIFICATION = Certification(b"signer", b"challenge", ClockInfo(5000, 3, 1, True), 7, NAME, b"\x00\x0b" + b"q" * 32)
IAK = Attribute.fixedTPM | Attribute.fixedParent | Attribute.sensitiveDataOrigin | Attribute.restricted | Attribute.sign


@given(CERTIFICATIONS)
def test_a_certification_survives_building_and_parsing(certification: Certification) -> None:
    assert parse_certification(build_certification(certification)) == certification


def test_a_certification_has_the_layout_of_the_specification() -> None:
    small = Certification(b"s", b"c", ClockInfo(1, 2, 3, False), 4, b"n", b"q")
    expected = "ff544347 8017 0001 73 0001 63 0000000000000001 00000002 00000003 00 0000000000000004 0001 6e 0001 71"
    assert build_certification(small) == bytes.fromhex(expected)


def test_every_truncation_and_a_trailing_byte_are_refused() -> None:
    whole = build_certification(CERTIFICATION)
    for cut in (*(whole[:end] for end in range(len(whole))), whole + b"\0"):
        with pytest.raises(MalformedError):
            parse_certification(cut)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(AttestreamError):
        parse_certification(data)


def test_a_certification_that_can_not_be_is_not_built() -> None:
    with pytest.raises(TooLargeError):
        build_certification(msgspec.structs.replace(CERTIFICATION, name=bytes(67)))
    with pytest.raises(MalformedError):
        build_certification(msgspec.structs.replace(CERTIFICATION, firmware=2**64))


def certified(key: ec.EllipticCurvePrivateKey, attest: bytes, algorithm: str = "sha256") -> bytes:
    primitive = hashes.SHA1() if algorithm == "sha1" else hashes.SHA256()
    return build_signature(Signature("ecdsa", algorithm, key.sign(attest, ec.ECDSA(primitive))))


def certifier(key: ec.EllipticCurvePrivateKey) -> Public:
    return parse_public(build_public(key.public_key(), attributes=IAK, scheme="ecdsa", scheme_hash="sha256"))


def test_a_certification_is_believed_for_its_object_and_challenge_only(keys: KeyPool) -> None:
    key = keys.take("p256")
    iak, attest = certifier(key), build_certification(CERTIFICATION)
    signature = certified(key, attest)
    found = verify_certification(iak, attest, signature, name=NAME, extra_data=b"challenge")
    assert found == CERTIFICATION
    with pytest.raises(SignatureError, match="not made for this challenge"):
        verify_certification(iak, attest, signature, name=NAME, extra_data=b"another")
    with pytest.raises(SignatureError, match="about the object"):
        verify_certification(iak, attest, signature, name=b"\x00\x0b" + b"m" * 32, extra_data=b"challenge")
    with pytest.raises(SignatureError, match="not made by this key"):
        verify_certification(certifier(keys.take("p256")), attest, signature, name=NAME, extra_data=b"challenge")


def test_bytes_that_no_tpm_made_and_a_quote_are_no_certification(keys: KeyPool) -> None:
    """CVE-2022-1053 lived on a verifier and a registrar that trusted different keys: what binds them must be checked."""
    key = keys.take("p256")
    forged = b"\0" + build_certification(CERTIFICATION)[1:]
    quote = build_quote(Quote(b"signer", b"challenge", CERTIFICATION.clock, 7, (("sha256", (0,)),), bytes(32)))
    for attest, message in ((forged, "no TPM made it"), (quote, "not a certification")):
        with pytest.raises(MalformedError, match=message):
            verify_certification(certifier(key), attest, certified(key, attest), name=NAME, extra_data=b"challenge")


def test_sha1_certifies_only_where_that_is_allowed(keys: KeyPool) -> None:
    key = keys.take("p256")
    attest = build_certification(CERTIFICATION)
    signature = certified(key, attest, "sha1")
    with pytest.raises(UnsupportedError):
        verify_certification(certifier(key), attest, signature, name=NAME, extra_data=b"challenge")
    verify_certification(certifier(key), attest, signature, name=NAME, extra_data=b"challenge", allow_sha1=True)
