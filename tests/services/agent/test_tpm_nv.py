"""What is read of the TPM's NV memory: all that a maker may have left there, and no more."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import ESAPI

from devtools.machine_maker import write
from devtools.swtpm import Swtpm
from schemas.enrolment import MAX_CERTIFICATES
from services.agent import tpm_nv
from services.agent.tpm_nv import MAX_BYTES, certificates, handles, split_der

INDEXES = range(0x01C90100, 0x01C90200)


def item(size: int) -> bytes:
    """A DER SEQUENCE with ``size`` bytes of content."""
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return b"\x30" + length + b"c" * size


ITEMS = st.lists(st.integers(0, 2_000).map(item), max_size=5)
PADDING = st.sampled_from((b"", bytes(7), b"\xff" * 7))


@given(ITEMS, st.lists(st.integers(0, 6_000), max_size=4), PADDING)
def test_items_may_run_over_from_one_index_into_the_next(items: list[bytes], cuts: list[int], padding: bytes) -> None:
    whole = b"".join(items)
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    parts = [whole[start:end] for start, end in pairwise(places)]
    assert list(split_der([*parts, padding])) == items


@given(st.lists(st.tuples(ITEMS, PADDING), max_size=4))
def test_each_index_may_be_padded(contents: list[tuple[list[bytes], bytes]]) -> None:
    found = split_der(b"".join(items) + padding for items, padding in contents)
    assert list(found) == [one for items, _ in contents for one in items]


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_arbitrary_contents_give_nothing_that_is_not_there(contents: list[bytes]) -> None:
    for found in split_der(contents):
        assert found[0] == 0x30
        assert found in b"".join(contents)


def test_a_huge_or_endless_length_is_no_item() -> None:
    for head in (b"\x30\x83\xff\xff\xff", b"\x30\x84\x00\x00\x00\x01x", b"\x30\x80ab\x00\x00", b"\x30\xff" + b"\x01" * 130):
        assert list(split_der([head, item(3)])) == [item(3)]


def test_reading_is_bounded_in_number_and_in_bytes(swtpm: Swtpm, monkeypatch) -> None:
    with ESAPI(swtpm.tcti) as tpm:
        write(tpm, INDEXES[0], item(100) * MAX_CERTIFICATES + item(100))
        write(tpm, INDEXES[7], item(1_500))
        write(tpm, 0x01C90200, item(5))
        assert handles(tpm, INDEXES) == [INDEXES[0], INDEXES[7]]
        assert certificates(tpm, INDEXES) == [item(100)] * MAX_CERTIFICATES
        assert certificates(tpm, INDEXES[1:]) == [item(1_500)]
        monkeypatch.setattr(tpm_nv, "MAX_BYTES", 1_000)
        assert certificates(tpm, INDEXES[1:]) == []
    assert 3 * MAX_BYTES < 131_072
