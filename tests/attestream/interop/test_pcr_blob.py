import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, UnsupportedError
from attestream.interop.pcr_blob import build_pcr_blob, parse_pcr_blob

SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
BANKS = st.dictionaries(st.sampled_from(sorted(SIZES)), st.sets(st.integers(0, 23)), max_size=4)
SELECTION = (("sha256", (0, 7, 16)),)
VALUES = {"sha256": {0: b"\1" * 32, 7: b"\2" * 32, 16: b"\3" * 32}}
BLOB = build_pcr_blob(SELECTION, VALUES)


@given(BANKS)
def test_values_survive_building_and_parsing(banks):
    selection = tuple((bank, tuple(sorted(pcrs))) for bank, pcrs in banks.items())
    values = {bank: {pcr: bytes((pcr,)) * SIZES[bank] for pcr in pcrs} for bank, pcrs in selection}
    parsed = parse_pcr_blob(build_pcr_blob(selection, values))
    assert (parsed.selection, parsed.values) == (selection, values)


def test_the_layout_is_that_of_tpm2_tools():
    assert len(BLOB) == 132 + 4 + 532
    assert BLOB[:12].hex() == "01000000" + "0b00" + "03" + "810001" + "0000"
    assert BLOB[132:142].hex() == "01000000" + "03000000" + "2000"


@given(st.binary(max_size=800))
def test_arbitrary_bytes_raise_nothing_else(data):
    with contextlib.suppress(AttestreamError):
        parse_pcr_blob(data)


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 255))
def test_a_changed_byte_raises_nothing_else(at, value):
    with contextlib.suppress(AttestreamError):
        parse_pcr_blob(BLOB[:at] + bytes((value,)) + BLOB[at + 1 :])


def test_every_truncation_and_a_trailing_byte_are_refused():
    for cut in (*(BLOB[:end] for end in range(len(BLOB))), BLOB + b"\0"):
        with pytest.raises(MalformedError):
            parse_pcr_blob(cut)


def test_what_is_in_padding_and_unused_entries_says_nothing():
    """The bytes are memory of a C program; what it did not set is whatever was there."""
    noisy = bytearray(BLOB)
    noisy[10:12] = b"\xaa\xaa"  # fourth byte of the bitmap and padding
    noisy[12:132] = b"\xbb" * 120  # the 15 unused entries
    noisy[136:140] = b"\x08\0\0\0"  # the list's own count
    noisy[142 + 32 : 142 + 64] = b"\xcc" * 32  # behind the first value
    assert parse_pcr_blob(bytes(noisy)) == parse_pcr_blob(BLOB)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, struct.pack("<I", 17), MalformedError),  # more banks than there is room for
        (4, struct.pack("<H", 0x0012), UnsupportedError),  # SM3
        (6, b"\x04", MalformedError),  # bitmap of 4 bytes
        (7, b"\x80", MalformedError),  # one PCR less than values
        (7, b"\x83", MalformedError),  # one more
        (132, struct.pack("<I", 2), MalformedError),
        (140, struct.pack("<H", 31), MalformedError),
        (140, struct.pack("<H", 65), MalformedError),
        (140, struct.pack("<H", 0), MalformedError),
    ],
)
def test_each_field_is_checked(at, value, error):
    with pytest.raises(error):
        parse_pcr_blob(BLOB[:at] + value + BLOB[at + len(value) :])


def test_a_bank_that_stands_twice_with_one_pcr_is_refused():
    twice = build_pcr_blob((("sha256", (7,)), ("sha256", (7,))), VALUES)
    with pytest.raises(MalformedError):
        parse_pcr_blob(twice)


@pytest.mark.parametrize(
    ("selection", "values"),
    [
        ((("sha256", (24,)),), {"sha256": {24: bytes(32)}}),
        ((("sha256", (0,)),), {}),
        ((("sha256", (0,)),), {"sha256": {0: bytes(20)}}),
        ((("md5", (0,)),), {"md5": {0: bytes(16)}}),
        ((("sha256", ()),) * 17, {}),
    ],
)
def test_what_can_not_be_is_not_built(selection, values):
    with pytest.raises(MalformedError):
        build_pcr_blob(selection, values)
