import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError, TooLargeError
from attestream.tpm.marshalling import Reader, sized


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_what_was_written_is_read(parts: list[bytes]) -> None:
    reader = Reader(b"".join(map(sized, parts)), "it")
    assert [reader.sized(64) for _ in parts] == parts
    reader.finish()


def test_a_length_beyond_the_end_is_refused() -> None:
    with pytest.raises(MalformedError, match="it ends at byte 4; at least 5"):
        Reader(b"\x00\x03ab", "it").sized(64)


def test_a_length_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLargeError, match="65 bytes; the limit is 64"):
        Reader(sized(bytes(65)), "it").sized(64)


def test_bytes_left_over_are_refused() -> None:
    reader = Reader(b"\x00\x01\x02", "it")
    assert reader.number(2) == 1
    with pytest.raises(MalformedError, match="1 bytes that do not belong"):
        reader.finish()


def test_a_buffer_that_no_length_can_tell_is_refused() -> None:
    assert sized(bytes(0xFFFF))[:2] == b"\xff\xff"
    with pytest.raises(TooLargeError):
        sized(bytes(0x1_0000))
