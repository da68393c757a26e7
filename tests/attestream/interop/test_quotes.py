import base64
import contextlib
import zlib

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError, TooLargeError
from attestream.interop.pcr_blob import build_pcr_blob
from attestream.interop.quotes import (
    MAX_PART,
    MAX_TEXT,
    QuoteParts,
    QuoteRefusedError,
    build_quote_text,
    check_quote,
    nonce_forms,
    parse_quote_text,
)
from attestream.tpm.public import parse_public
from attestream.tpm.structures import build_quote, parse_quote
from devtools.soft_tpm import SoftTpm

NONCE = "q7Yw2hZp0TnXc4RbLk9s"


def b64(data):
    return base64.b64encode(data).decode()


def quoted(tpm, selection=(("sha256", (0, 7)),), nonce=b"", **changes):
    attest, _ = tpm.quote(nonce or NONCE.encode(), dict(selection))
    attest = build_quote(msgspec.structs.replace(parse_quote(attest), **changes))
    values = {bank: {pcr: tpm.pcr(bank, pcr) for pcr in pcrs} for bank, pcrs in selection}
    return QuoteParts(attest, tpm.sign(attest), build_pcr_blob(selection, values))


def refusal(tpm, parts, nonce=NONCE, hash_name="sha256"):
    with pytest.raises(QuoteRefusedError) as refused:
        check_quote(parse_public(tpm.ak_public), parts, nonce, hash_name)
    return refused.value.finding.code


@pytest.fixture
def tpm(keys):
    made = SoftTpm(ek="p256", ak="p256", keys=keys)
    made.extend(7, {"sha1": b"\1" * 20, "sha256": b"\1" * 32})
    return made


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50))
def test_parts_survive_building_and_parsing(attest, signature, pcrs):
    parts = QuoteParts(attest, signature, pcrs)
    assert parse_quote_text(build_quote_text(parts)) == parts
    assert parse_quote_text(build_quote_text(parts) + ":more") == parts
    deflated = "r" + ":".join(b64(zlib.compress(part)) for part in parts)
    assert parse_quote_text(deflated, compressed=True) == parts


@pytest.mark.parametrize(
    "text", ["", "r", "rAA==", "rAA==:AA==", "AA==:AA==:AA==", "d" + "AA==:AA==:AA==", "rAA==:A:AA==", "rAA==:AA==:Ä"]
)
def test_what_is_no_quote_text_is_refused(text):
    with pytest.raises(MalformedError):
        parse_quote_text(text)


@given(st.text(max_size=80), st.booleans())
def test_arbitrary_text_raises_nothing_else(text, compressed):
    for candidate in (text, f"r{text}:{text}:{text}"):
        with contextlib.suppress(MalformedError):
            parse_quote_text(candidate, compressed=compressed)


def test_a_text_and_what_it_inflates_to_are_bounded():
    """CVE-2023-38200 was about bodies without bound."""
    with pytest.raises(TooLargeError):
        parse_quote_text("r" + "A" * MAX_TEXT)
    bomb = b64(zlib.compress(bytes(MAX_PART + 1)))
    with pytest.raises(TooLargeError):
        parse_quote_text(f"r{bomb}:AA==:AA==", compressed=True)
    cut = b64(zlib.compress(b"quote")[:-2])
    with pytest.raises(TooLargeError):
        parse_quote_text(f"r{cut}:AA==:AA==", compressed=True)


@pytest.mark.parametrize(
    ("nonce", "forms"),
    [
        ("abc", (b"abc",)),
        ("AAEC", (b"AAEC", b"\0\1\2")),
        ("", (b"", b"")),
        ("not base64!", (b"not base64!",)),
        ("ü", ("ü".encode(),)),
    ],
)
def test_a_nonce_is_a_text_or_base64(nonce, forms):
    assert nonce_forms(nonce) == forms


def test_a_good_quote_shows_its_values(tpm):
    ak = parse_public(tpm.ak_public)
    checked = check_quote(ak, quoted(tpm), NONCE, "sha256")
    assert checked.pcrs == {0: tpm.pcr("sha256", 0), 7: tpm.pcr("sha256", 7)}
    push = base64.b64encode(b"sixteen bytes 16").decode()
    assert check_quote(ak, quoted(tpm, nonce=b"sixteen bytes 16"), push, "sha256").pcrs == checked.pcrs


def test_a_quote_of_no_pcrs_shows_none(tpm):
    """CVE-2022-0317: go-attestation took a quote over no PCR as proof of values that nobody had signed."""
    empty = quoted(tpm, (("sha256", ()),))
    assert check_quote(parse_public(tpm.ak_public), empty, NONCE, "sha256").pcrs == {}
    assert refusal(tpm, empty._replace(pcrs=quoted(tpm).pcrs)) == "quote.selection"


def test_values_of_pcrs_that_were_not_signed_are_refused(tpm):
    """CVE-2022-0317, with some PCRs: the digest fits, and the numbers are the attacker's."""
    parts = quoted(tpm, (("sha256", (16, 23)),))
    moved = {"sha256": {0: tpm.pcr("sha256", 16), 7: tpm.pcr("sha256", 23)}}
    assert refusal(tpm, parts._replace(pcrs=build_pcr_blob((("sha256", (0, 7)),), moved))) == "quote.selection"


def test_a_bank_that_was_not_asked_for_is_refused(tpm):
    """keylime 7.14 labels the values with the bank of the signature's hash, whatever was signed."""
    assert refusal(tpm, quoted(tpm, (("sha1", (0, 7)),))) == "quote.selection"
    assert refusal(tpm, quoted(tpm, (("sha256", (0,)), ("sha1", (0,))))) == "quote.selection"


def test_values_that_fit_together_only_as_bytes_are_refused(tpm):
    """Two values cut at another place have the same digest."""
    parts = quoted(tpm)
    blob = bytearray(parts.pcrs)
    both = tpm.pcr("sha256", 0) + tpm.pcr("sha256", 7)
    for at, value in ((140, both[:16]), (206, both[16:])):
        blob[at : at + 66] = len(value).to_bytes(2, "little") + value.ljust(64, b"\0")
    assert refusal(tpm, parts._replace(pcrs=bytes(blob))) == "quote.pcr-digest"


def test_a_signature_failure_is_never_swallowed(tpm, keys):
    """keylime 7.14: an InvalidSignature without text counted as no error at all (identity quotes, no PCRs)."""
    parts = quoted(tpm)
    other = SoftTpm(ek="p256", ak="p256", keys=keys)
    flipped = parts.signature[:-1] + bytes((parts.signature[-1] ^ 1,))
    assert refusal(other, parts) == "quote.signature-invalid"
    assert refusal(tpm, parts._replace(signature=flipped)) == "quote.signature-invalid"


@pytest.mark.parametrize("nonce", ["", NONCE[:-1], NONCE + "x", NONCE.swapcase()])
def test_another_nonce_is_refused(tpm, nonce):
    assert refusal(tpm, quoted(tpm), nonce) == "quote.qualifying-data"


def test_algorithms_that_were_not_agreed_on_are_refused(tpm, keys):
    assert refusal(tpm, quoted(tpm), hash_name="sha384") == "quote.algorithm"
    pss = SoftTpm(ek="p256", ak="rsa2048", ak_scheme="rsapss", keys=keys)
    assert refusal(pss, quoted(pss)) == "quote.algorithm"
    weak = SoftTpm(ek="p256", ak="p256", ak_hash="sha1", keys=keys)
    assert refusal(weak, quoted(weak)) == "quote.algorithm"
    sha1 = quoted(weak, (("sha1", (0,)),))
    assert check_quote(parse_public(weak.ak_public), sha1, NONCE, "sha1").pcrs == {0: bytes(20)}


def test_a_coordinate_longer_than_the_curve_is_refused(tpm):
    key = ec.generate_private_key(ec.SECP256R1())
    parts = quoted(tpm)
    r, s = decode_dss_signature(key.sign(parts.attest, ec.ECDSA(hashes.SHA256())))
    wide = b"\x00\x18\x00\x0b" + b"".join(b"\x00\x21" + number.to_bytes(33, "big") for number in (r, s))
    assert refusal(tpm, parts._replace(signature=wide)) == "quote.malformed"


def test_bytes_behind_a_signature_say_nothing_and_those_behind_the_values_are_refused(tpm):
    parts = quoted(tpm)
    check_quote(parse_public(tpm.ak_public), parts._replace(signature=parts.signature + b"\0"), NONCE, "sha256")
    assert refusal(tpm, parts._replace(pcrs=parts.pcrs + b"\0")) == "quote.pcr-digest"
    assert refusal(tpm, parts._replace(attest=parts.attest + b"\0")) == "quote.signature-invalid"
