import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError
from attestream.pki import certificate as module
from attestream.pki.certificate import parse_certificate
from attestream.pki.endorsement import judge_endorsement
from attestream.pki.profile import PERMISSIVE
from attestream.pki.signatures import Scheme, scheme_of
from attestream.pki.trust_store import TrustStore, read_certificates
from devtools.certificates import ONE_SET, Authority, key_usage, resigned, unsorted

NOW = 1_800_000_000_000
ROOT = Authority("Maker CA", now=NOW, path_length=2, usage=key_usage(issue=True))
RSA_ROOT = Authority("RSA CA", now=NOW, key=rsa.generate_private_key(65537, 2048))
NUVOTON = Authority(ONE_SET, now=NOW)
EK = ec.generate_private_key(ec.SECP256R1()).public_key()
GOOD = ROOT.endorse(EK)


def nv_header(der, *, tag=b"\x10\x01", kind=b"\x00", full=b"\x10\x02", size=None):
    return tag + kind + (len(der) + 2 if size is None else size).to_bytes(2, "big") + full + der


def test_fields_are_those_that_a_second_parser_reads():
    for der in (GOOD, ROOT.der, RSA_ROOT.der, RSA_ROOT.endorse(EK, pss=True)):
        ours, theirs = parse_certificate(der), x509.load_der_x509_certificate(der)
        assert ours.irregularities == ()
        assert (ours.tbs, ours.signature, ours.serial) == (
            theirs.tbs_certificate_bytes,
            theirs.signature,
            theirs.serial_number,
        )
        assert ours.not_before == theirs.not_valid_before_utc.timestamp() * 1000
        assert ours.not_after == theirs.not_valid_after_utc.timestamp() * 1000
        assert ours.issuer.raw == theirs.issuer.public_bytes()
        assert ours.subject.raw == theirs.subject.public_bytes()
        assert ours.public_key == theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_extensions_are_read():
    said = parse_certificate(ROOT.der).extensions
    assert (said.authority, said.path_length, said.key_usage) == (True, 2, 1 << 5)
    assert said.subject_key_id == x509.SubjectKeyIdentifier.from_public_key(ROOT.key.public_key()).digest
    leaf = parse_certificate(GOOD).extensions
    assert (leaf.authority, leaf.key_usage, leaf.purposes) == (False, 1 << 4, {"2.23.133.8.1"})
    assert dict(leaf.directory_names[0].attributes)["2.23.133.2.1"] == "id:41545331"


@pytest.mark.parametrize("filler", [b"\0", b"\xff" * 500, b"\0" * 700])
def test_padding_of_nv_memory_is_named(filler):
    """ST's modules give the whole NV index, its unused rest included."""
    found = parse_certificate(GOOD + filler)
    assert (found.irregularities, found.der) == ((module.PADDING,), GOOD)


def test_stored_certificate_header_is_named():
    """HIRS: TPM 1.2 modules store 7 bytes before the certificate."""
    found = parse_certificate(nv_header(GOOD))
    assert (found.irregularities, found.der) == ((module.HEADER,), GOOD)
    assert parse_certificate(nv_header(GOOD) + b"\xff" * 64).irregularities == (module.HEADER, module.PADDING)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"junk",
        GOOD[:-1],
        GOOD + b"\x01",
        GOOD + GOOD,
        GOOD + b"\0\xff",
        nv_header(GOOD)[:-1],
        nv_header(GOOD, kind=b"\x01"),
        nv_header(GOOD, full=b"\x10\x03"),
        nv_header(GOOD, size=len(GOOD) + 3),
        nv_header(GOOD, size=1),
        nv_header(GOOD) + b"junk",
        nv_header(nv_header(GOOD)),
    ],
)
def test_what_is_no_certificate_is_malformed(data):
    with pytest.raises(MalformedError):
        parse_certificate(data)


def test_large_certificate_is_too_large():
    with pytest.raises(TooLargeError):
        parse_certificate(GOOD + bytes(module.MAX_CERTIFICATE))


def test_unsorted_set_is_named_and_the_name_is_still_the_same():
    """keylime#944, keylime#1775: the roots of Nuvoton."""
    straight, bent = parse_certificate(NUVOTON.der), parse_certificate(unsorted(NUVOTON.der, NUVOTON.key))
    assert (straight.irregularities, bent.irregularities) == ((), ("set-not-sorted",))
    assert straight.subject.raw != bent.subject.raw
    assert straight.subject.key == bent.subject.key


def test_unsorted_set_is_one_that_a_strict_parser_refuses():
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        x509.load_der_x509_certificate(unsorted(NUVOTON.der, NUVOTON.key)).subject  # noqa: B018 - parsing is lazy


def test_names_are_compared_without_case_spaces_and_string_types():
    def key(text, kind):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind)])
        return parse_certificate(ROOT.sign(name, EK).public_bytes(Encoding.DER)).subject.key

    utf8, printable = x509.name._ASN1Type.UTF8String, x509.name._ASN1Type.PrintableString
    assert key("Maker  CA", utf8) == key("maker ca", printable)
    assert key("Maker CA", utf8) != key("MakerCA", utf8)


def test_other_breaches_of_der_are_named():
    serial = parse_certificate(ROOT.der).serial
    size = serial.bit_length() // 8 + 1
    number = serial.to_bytes(size, "big")
    wrongs = ((b"\xff" + bytes(size - 1), "serial-number"), (b"\0\x01" + bytes(size - 2), "integer-not-minimal"))
    for wrong, name in wrongs:
        assert parse_certificate(resigned(ROOT.der, ROOT.key, number, wrong)).irregularities == (name,)
    truth = ROOT.der.replace(b"\x01\x01\xff", b"\x01\x01\x01")
    assert parse_certificate(truth).irregularities == ("boolean-not-ff",)


def test_signature_algorithms_must_agree():
    """A certificate that names one algorithm where it is signed and another beside it."""
    at = RSA_ROOT.der.rindex(bytes.fromhex("2a864886f70d01010b"))
    other = RSA_ROOT.der[: at + 8] + b"\x0c" + RSA_ROOT.der[at + 9 :]
    with pytest.raises(MalformedError, match="two signature algorithms"):
        parse_certificate(other)


def test_schemes_are_recognised():
    assert scheme_of(parse_certificate(GOOD)) == Scheme("ecdsa", "sha256")
    assert scheme_of(parse_certificate(RSA_ROOT.der)) == Scheme("rsassa", "sha256")
    assert scheme_of(parse_certificate(RSA_ROOT.endorse(EK, pss=True))) == Scheme("rsapss", "sha256", 32)


def test_pem_files_hold_any_number_and_nothing_else():
    pem = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (ROOT, RSA_ROOT))
    assert [one.der for one in read_certificates(b"Maker's roots\n" + pem)] == [ROOT.der, RSA_ROOT.der]
    assert [one.der for one in read_certificates(ROOT.der)] == [ROOT.der]
    for bad in (
        pem.replace(b"END CERT", b"END BERT"),
        pem.replace(b"M", b"!", 5),
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n" + pem,
        b"",
        b"text",
    ):
        with pytest.raises(MalformedError):
            read_certificates(bad)


@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_our_errors(data):
    with pytest.raises(AttestreamError):
        parse_certificate(data)


@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=400, deadline=1000)
def test_altered_certificates_are_never_trusted(changes):
    """Any change is an error, or a certificate that nobody signed; judging it never raises."""
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    judged = judge_endorsement([bytes(data)], TrustStore.of([ROOT.der]), profile=PERMISSIVE, now=NOW)
    assert judged.trusted == (bytes(data) == GOOD)


@pytest.mark.alone
def test_deep_nesting_and_many_attributes_take_no_time():
    """A certificate made to be slow."""
    start = time.perf_counter()
    for data in (b"\x30\x82\x1f\x00" * 2000, b"\x30\x82\x1f\xfc" + b"\x31\x00" * 4000, b"\x30\x84\xff\xff\xff\xff"):
        with pytest.raises(MalformedError):
            parse_certificate(data[: module.MAX_CERTIFICATE])
    assert time.perf_counter() - start < 0.5
