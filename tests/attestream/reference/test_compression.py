"""What compressed data may come to, and what reading it may take."""

import bz2
import gzip
import io
import lzma
import tracemalloc

import pytest

from attestream.errors import MalformedError, TooLargeError
from attestream.reference import compression
from attestream.reference.compression import inflated

ZEROS = bytes(4 << 20)


def alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


KINDS = {"gzip": gzip.compress, "xz": lzma.compress, "lzma": alone, "bzip2": bz2.compress}


def test_an_archive_bomb_is_stopped():
    with pytest.raises(TooLargeError):
        inflated(io.BytesIO(gzip.compress(bytes(1 << 20))), "gzip", 1 << 16).read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_file_does_not_inflate_to_a_large_one(kind, monkeypatch):
    monkeypatch.setattr(compression, "ALWAYS_INFLATED", 1 << 20)
    packed = KINDS[kind](ZEROS)
    assert len(packed) * compression.MAX_RATIO < len(ZEROS)
    with pytest.raises(TooLargeError, match="inflates to more") as raised:
        inflated(io.BytesIO(packed), kind).read()
    assert "unpack it" in raised.value.hint
    monkeypatch.setattr(compression, "ALWAYS_INFLATED", len(ZEROS))
    assert inflated(io.BytesIO(packed), kind).read() == ZEROS


def test_a_few_bytes_of_lzma_can_not_ask_for_gigabytes_of_memory():
    """The header says how large a window the decompressor shall make, here 4 GiB."""
    asking = b"\x5d" + (0xFFFFFFFF).to_bytes(4, "little") + b"\xff" * 8 + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="can not be inflated"):
            inflated(io.BytesIO(asking), "lzma").read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_xz_makes_with_its_largest_preset_is_read():
    packed = lzma.compress(b"content", preset=9 | lzma.PRESET_EXTREME)
    assert inflated(io.BytesIO(packed), "xz").read() == b"content"


@pytest.mark.parametrize("kind", KINDS)
def test_streams_may_follow_one_another(kind):
    pack = KINDS[kind]
    both = pack(b"one ") + pack(b"two")
    assert inflated(io.BytesIO(both), kind).read() == b"one two"
    assert inflated(io.BytesIO(both + pack(b"")), kind).read() == b"one two"


@pytest.mark.parametrize("kind", ["xz", "lzma", "bzip2"])
def test_what_follows_the_last_stream_is_left_alone(kind):
    assert inflated(io.BytesIO(KINDS[kind](b"content") + b"no stream" * 10), kind).read() == b"content"


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_too_early_or_is_damaged_is_refused(kind):
    packed = KINDS[kind](bytes(range(256)) * 100)
    for damaged in (packed[:-5], packed[:30], packed[:-40] + b"\xff" * 20 + packed[-20:]):
        with pytest.raises(MalformedError, match="can not be inflated"):
            inflated(io.BytesIO(damaged), kind).read()


def test_a_second_stream_that_can_not_be_read_does_not_end_the_data_silently():
    whole = lzma.compress(b"a") + lzma.compress(b"b")
    assert inflated(io.BytesIO(whole), "xz").read() == b"ab"
    assert inflated(io.BytesIO(lzma.compress(b"a") + bytes(32)), "xz").read() == b"a"
    with pytest.raises(MalformedError):
        inflated(io.BytesIO(lzma.compress(b"a") + lzma.compress(b"b")[:6] + bytes(40)), "xz").read()
