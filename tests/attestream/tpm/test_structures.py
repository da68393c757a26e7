import contextlib
import struct

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.tpm.structures import (
    ClockInfo,
    Quote,
    Signature,
    build_quote,
    build_signature,
    parse_quote,
    parse_signature,
)

BANKS = st.sampled_from(["sha1", "sha256", "sha384", "sha512"])
PCR_SETS = st.sets(st.integers(0, 31)).map(lambda pcrs: tuple(sorted(pcrs)))
QUOTES = st.builds(
    Quote,
    signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=66),
    clock=st.builds(
        ClockInfo,
        clock=st.integers(0, 2**64 - 1),
        reset_count=st.integers(0, 2**32 - 1),
        restart_count=st.integers(0, 2**32 - 1),
        safe=st.booleans(),
    ),
    firmware=st.integers(0, 2**64 - 1),
    selection=st.lists(st.tuples(BANKS, PCR_SETS), max_size=16).map(tuple),
    pcr_digest=st.binary(max_size=64),
)
SIGNATURES = st.one_of(
    st.builds(Signature, scheme=st.sampled_from(["rsassa", "rsapss"]), hash=BANKS, value=st.binary(max_size=512)),
    st.builds(
        Signature,
        scheme=st.just("ecdsa"),
        hash=BANKS,
        value=st.builds(encode_dss_signature, st.integers(0, 2**528 - 1), st.integers(0, 2**528 - 1)),
    ),
)
QUOTE = Quote(b"\x00\x0b" + bytes(32), b"nonce", ClockInfo(5000, 3, 1, True), 7, (("sha256", (0, 10)),), bytes(32))

# Written out by hand from Part 2, so that a mistake in both build and parse shows.
QUOTE_HEX = (
    "ff544347 8018"
    "0022 000b" + "00" * 32 + "0005 6e6f6e6365"
    "0000000000001388 00000003 00000001 01"
    "0000000000000007"
    "00000001 000b 03 010400"
    "0020" + "00" * 32
)


@given(QUOTES)
def test_a_quote_survives_building_and_parsing(quote: Quote) -> None:
    assert parse_quote(build_quote(quote)) == quote


@given(SIGNATURES)
def test_a_signature_survives_building_and_parsing(signature: Signature) -> None:
    assert parse_signature(build_signature(signature)) == signature


def test_a_quote_has_the_layout_of_the_specification() -> None:
    assert build_quote(QUOTE) == bytes.fromhex(QUOTE_HEX)
    assert parse_quote(bytes.fromhex(QUOTE_HEX)) == QUOTE


def test_every_truncation_and_a_trailing_byte_are_refused() -> None:
    whole = build_quote(QUOTE)
    for end in range(len(whole)):
        with pytest.raises(MalformedError):
            parse_quote(whole[:end])
    with pytest.raises(MalformedError):
        parse_quote(whole + b"\0")


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    for parse in (parse_quote, parse_signature):
        with contextlib.suppress(AttestreamError):
            parse(data)


@given(QUOTES, st.data())
def test_a_changed_byte_raises_nothing_else(quote: Quote, data: st.DataObject) -> None:
    changed = bytearray(build_quote(quote))
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AttestreamError):
        parse_quote(bytes(changed))


def changed(at: int, value: bytes) -> bytes:
    whole = bytearray(build_quote(QUOTE))
    whole[at : at + len(value)] = value
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(0, b"\xfe"), "no TPM made it"),  # a restricted key signs such bytes when an attacker brings them
        (changed(4, b"\x80\x17"), "type 0x8017, not a quote"),  # TPM_ST_ATTEST_CERTIFY
        (changed(6, b"\x00\x43"), "limit is 66"),
        (changed(42, b"\x00\x43"), "limit is 66"),
        (changed(65, b"\x02"), "neither safe"),
        (changed(74, b"\x00\x00\x00\x11"), "limit is 16"),
        (changed(78, b"\x00\x12"), "0x0012 is not supported"),  # SM3
        (changed(84, b"\x00\x41"), "does not end it"),
    ],
)
def test_each_field_is_checked(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_quote(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_bitmaps_of_any_size_are_read_least_significant_pcr_first(width: int) -> None:
    data = changed(80, bytes((width,)))[:81] + b"\x81".ljust(width, b"\0") + build_quote(QUOTE)[84:]
    assert parse_quote(data).selection == (("sha256", (0, 7)),)


@pytest.mark.parametrize("width", [0, 5])
def test_bitmaps_of_impossible_sizes_are_refused(width: int) -> None:
    with pytest.raises(MalformedError, match="1 to 4 bytes"):
        parse_quote(changed(80, bytes((width,)))[:81] + bytes(width) + build_quote(QUOTE)[84:])


def test_the_order_of_banks_is_kept_and_an_empty_bank_too() -> None:
    selection = (("sha256", (1,)), ("sha1", ()), ("sha384", (23,)))
    assert parse_quote(build_quote(msgspec.structs.replace(QUOTE, selection=selection))).selection == selection


@pytest.mark.parametrize(
    "change",
    [
        {"signer": bytes(67)},
        {"extra_data": bytes(67)},
        {"pcr_digest": bytes(65)},
        {"firmware": 2**64},
        {"firmware": -1},
        {"selection": (("sha256", (10, 0)),)},
        {"selection": (("sha256", (32,)),)},
        {"selection": (("sha256", (1, 1)),)},
        {"selection": (("md5", (1,)),)},
        {"selection": (("sha256", ()),) * 17},
    ],
)
def test_a_quote_that_can_not_be_is_not_built(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        build_quote(msgspec.structs.replace(QUOTE, **change))


def test_signatures_are_bounded() -> None:
    rsa = struct.pack(">HHH", 0x0014, 0x000B, 256) + bytes(256)
    assert parse_signature(rsa) == Signature("rsassa", "sha256", bytes(256))
    for data in (rsa[:-1], rsa + b"\0", rsa[:5], b"", struct.pack(">HHH", 0x0014, 0x000B, 513) + bytes(513)):
        with pytest.raises(MalformedError):
            parse_signature(data)
    ecdsa = struct.pack(">HHH", 0x0018, 0x000B, 2) + b"\x01\x02\x00\x01\x03"
    assert parse_signature(ecdsa).value == encode_dss_signature(0x0102, 3)
    for data in (ecdsa[:-1], ecdsa + b"\0", ecdsa[:9], struct.pack(">HHH", 0x0018, 0x000B, 67) + bytes(69)):
        with pytest.raises(MalformedError):
            parse_signature(data)


@pytest.mark.parametrize("scheme", [0x0005, 0x0010, 0x001A, 0x001C])  # HMAC, NULL, ECDAA, ECSCHNORR
def test_schemes_that_are_not_public_key_signatures_of_ours_are_refused(scheme: int) -> None:
    with pytest.raises(UnsupportedError):
        parse_signature(struct.pack(">HHH", scheme, 0x000B, 32) + bytes(32))


def test_a_signature_that_can_not_be_is_not_built() -> None:
    with pytest.raises(UnsupportedError):
        build_signature(Signature("ecdaa", "sha256", b""))
    with pytest.raises(TooLargeError):
        build_signature(Signature("rsassa", "sha256", bytes(513)))
    with pytest.raises(MalformedError):
        build_signature(Signature("ecdsa", "sha256", b"not DER"))
    with pytest.raises(MalformedError):
        build_signature(Signature("ecdsa", "sha256", encode_dss_signature(2**528, 1)))


def test_bytes_behind_a_structure_are_left_out_where_they_are_allowed() -> None:
    assert parse_quote(build_quote(QUOTE) + b"more", trailing=True) == QUOTE
    for signature in (Signature("rsassa", "sha256", bytes(256)), Signature("ecdsa", "sha256", encode_dss_signature(5, 7))):
        whole = build_signature(signature)
        assert parse_signature(whole + b"more", trailing=True) == signature
        for end in range(len(whole)):
            with pytest.raises(MalformedError):
                parse_signature(whole[:end], trailing=True)
    for end in range(len(build_quote(QUOTE))):
        with pytest.raises(MalformedError):
            parse_quote(build_quote(QUOTE)[:end], trailing=True)
