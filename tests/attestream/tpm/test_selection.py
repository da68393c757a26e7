import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.tpm.selection import bitmap_pcrs, build_selection, parse_selection

SELECTIONS = st.lists(
    st.tuples(
        st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
        st.sets(st.integers(0, 31)).map(lambda pcrs: tuple(sorted(pcrs))),
    ),
    max_size=16,
).map(tuple)


@given(SELECTIONS)
def test_a_selection_survives_building_and_parsing(selection) -> None:
    assert parse_selection(build_selection(selection)) == selection


def test_a_selection_has_the_layout_of_the_specification() -> None:
    selection = (("sha1", (0,)), ("sha256", (0, 10, 23)))
    assert build_selection(selection).hex() == "00000002" + "000403010000" + "000b03010480"
    assert parse_selection(bytes.fromhex("00000000")) == ()


@given(st.binary(max_size=130))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(AttestreamError):
        parse_selection(data)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", MalformedError),
        ("000000", MalformedError),
        ("00000001000b030100", MalformedError),
        ("00000001000b03010000ff", MalformedError),
        ("00000001000b00", MalformedError),
        ("00000011" + "000b03010000" * 17, TooLargeError),
        ("00000001001203010000", UnsupportedError),
    ],
)
def test_what_is_no_selection_is_refused(data: str, error: type[AttestreamError]) -> None:
    with pytest.raises(error):
        parse_selection(bytes.fromhex(data))


def test_a_bitmap_starts_with_its_least_significant_bit() -> None:
    assert bitmap_pcrs(b"\x81\x04\x80") == (0, 7, 10, 23)
