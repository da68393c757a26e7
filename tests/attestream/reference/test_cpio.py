"""Reading of initial RAM disks, whole and hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.reference import paths
from attestream.reference.cpio import hash_cpio, hash_initrd
from attestream.reference.paths import logged_path
from devtools.package_maker import INITRD, INITRD_FILES, cpio, member


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def initrd(data: bytes) -> dict[str, str]:
    return dict(hash_initrd(io.BufferedReader(io.BytesIO(data))))


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


FILES = {path: sha256(content) for path, content in INITRD_FILES.items()}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, lzma_alone, bz2.compress])
def test_an_initrd_is_microcode_and_a_compressed_archive(compress):
    early = cpio(member("kernel/x86/microcode/GenuineIntel.bin", b"microcode"))
    files = initrd(early + compress(INITRD))
    assert files == {"/kernel/x86/microcode/GenuineIntel.bin": sha256(b"microcode"), **FILES}


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\x89LZO\x00\x0d"])
def test_what_can_not_be_decompressed_says_by_what(magic, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(UnsupportedError, match="compressed by") as raised:
        initrd(cpio() + magic + bytes(100))
    assert "unpack it first" in raised.value.hint


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")
def test_zstd_is_read_with_the_help_of_its_program():
    early = cpio(member("kernel/x86/microcode/GenuineIntel.bin", b"microcode"))
    whole = INITRD + cpio(member("big", bytes(3 << 20)))
    packed = subprocess.run(["zstd", "-c"], input=whole, capture_output=True, check=True).stdout
    files = initrd(early + packed)
    assert len(files) == len(FILES) + 2
    assert files["/big"] == sha256(bytes(3 << 20))
    for damaged in (packed[:-4], packed[:40] + b"\xff" * 40 + packed[80:]):
        with pytest.raises(MalformedError):
            initrd(early + damaged)


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "/..", "", ".", "a\x00b"])
def test_a_member_that_leads_out_of_the_archive_is_refused(name):
    with pytest.raises(MalformedError):
        logged_path(name)


def test_zip_slip_in_an_initrd_is_refused():
    with pytest.raises(MalformedError, match="not the name of a file"):
        initrd(cpio(member("../../etc/cron.d/x", b"evil")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        INITRD[:200],
        INITRD[:-600],
        b"070701" + b"G" * 104,
        member("a").replace(b"00000002", b"FFFFFFFF"),
        gzip.compress(b"no archive within"),
        gzip.compress(INITRD)[:-20],
    ],
    ids=["nothing", "text", "cut", "no end", "no numbers", "endless name", "zipped text", "cut zip"],
)
def test_a_damaged_initrd_is_refused(data):
    with pytest.raises(AttestreamError):
        initrd(data)


@given(st.integers(0, len(INITRD) - 1), st.integers(1, 255))
def test_an_altered_initrd_is_read_or_refused(place, change):
    data = bytearray(INITRD)
    data[place] ^= change
    try:
        initrd(bytes(data))
    except AttestreamError:
        return


# Names that no test above would take for the end of an archive, or for a way out of it.
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00/ "), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..", "TRAILER!!!")
)


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5), st.sampled_from([bytes, gzip.compress, lzma_alone]))
def test_what_is_put_into_an_initrd_comes_out(files, compress):
    packed = compress(cpio(*(member(name, data) for name, data in files.items())))
    assert initrd(packed) == {f"/{name}": sha256(data) for name, data in files.items()}


@pytest.mark.parametrize("number", [b"+0000001", b" 0000001", b"0x000001", b"0000_001"])
def test_numbers_of_a_header_are_eight_hexadecimal_digits(number):
    whole = cpio(member("a", b"a"))
    with pytest.raises(MalformedError, match="damaged header"):
        list(hash_cpio(io.BytesIO(whole.replace(b"00000001", number, 1))))


def test_names_that_inflate_to_gigabytes_are_refused(monkeypatch):
    """Of links to a file that never comes, the names wait; compressed, a thousand of them are a few bytes."""
    monkeypatch.setattr(paths, "MAX_NAMES", 1 << 16)
    many = cpio(*(member("n" * 1000, inode=number, links=2) for number in range(100)))
    with pytest.raises(TooLargeError, match="the names of its files"):
        initrd(gzip.compress(many))
