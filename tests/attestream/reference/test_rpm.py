"""Reading of the headers of RPM packages, whole and hostile."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.reference import paths
from attestream.reference.cpio import hash_cpio, hash_initrd
from attestream.reference.deb import hash_deb
from attestream.reference.rpm import read_rpm
from devtools.package_maker import FILE, INT16, INT32, TEXT, TEXTS, rpm, rpm_header, rpm_of


def files(package: bytes) -> dict[str, str]:
    return dict(read_rpm(io.BytesIO(package)))


def test_digests_are_taken_from_the_header():
    assert files(rpm()) == {"/bin/tool": "sha256:" + "ab" * 32}
    assert dict(read_rpm(io.BytesIO(rpm()), merged_usr=True)) == {"/usr/bin/tool": "sha256:" + "ab" * 32}
    assert files(rpm(algorithm=10, digest="AB" * 64, changes=[(1035, TEXTS, ["AB" * 64, "", "", ""])])) == {
        "/bin/tool": "sha512:" + "ab" * 64
    }


NAMES = st.text(st.characters(whitelist_categories=["Ll", "Nd"]), min_size=1, max_size=20)


@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32), min_size=1, max_size=8))
def test_what_a_header_lists_comes_out(content):
    count = len(content)
    package = rpm_of(
        (1030, INT16, [FILE] * count),
        (1035, TEXTS, [digest.hex() for digest in content.values()]),
        (1116, INT32, [0] * count),
        (1117, TEXTS, list(content)),
        (1118, TEXTS, ["/opt/"]),
        (5011, INT32, [8]),
    )
    assert files(package) == {f"/opt/{name}": f"sha256:{digest.hex()}" for name, digest in content.items()}


@pytest.mark.parametrize("algorithm", [1, 77])
def test_weak_digests_are_not_taken(algorithm):
    with pytest.raises(UnsupportedError, match="only weak digests"):
        files(rpm(algorithm=algorithm, digest="ab" * 16))


@pytest.mark.parametrize(
    "package",
    [
        rpm(header_digest="0" * 64),
        rpm(digest="xy" * 32),
        rpm()[:300],
        rpm(changes=((1117, TEXTS, ["one"]),)),
        rpm(changes=((1116, INT32, [9, 9, 9, 9]),)),
        rpm(changes=((1118, TEXTS, ["/../", "/.."]),)),
        rpm().replace(struct.pack(">III", 1030, 3, 0), struct.pack(">III", 1030, 3, 0x7FFFFFFF)),
    ],
)
def test_a_damaged_header_is_refused(package):
    with pytest.raises(AttestreamError):
        files(package)


@pytest.mark.parametrize("digest", ["ab", "ab" * 31, "ab" * 20, "ab " * 16 + "ab" * 8, "ab" * 33])
def test_a_digest_that_is_none_of_its_algorithm_is_refused(digest):
    with pytest.raises(MalformedError, match="none of sha256"):
        files(rpm(digest=digest))


def peak(package: bytes) -> int:
    """Return the bytes that reading ``package`` from a file takes at most."""
    source = io.BufferedReader(io.BytesIO(package))
    tracemalloc.start()
    try:
        with pytest.raises(AttestreamError):
            list(read_rpm(source))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_that_says_that_it_is_large_takes_no_memory():
    claim = b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", 60_000, 250 << 20)
    assert peak(rpm()[:96] + claim + bytes(100)) < 1 << 20


def test_tags_that_share_their_bytes_take_no_more_memory_than_one():
    """Lists of numbers and of empty texts, all over the same zeros, would take 45 times the header."""
    count = 100_000
    shared = b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", 7, 4 * count)
    kinds = {1030: INT16, 1035: TEXTS, 1037: INT32, 1116: INT32, 1117: TEXTS, 1118: TEXTS, 5011: TEXT}
    shared += b"".join(struct.pack(">IIII", tag, kind, 0, count) for tag, kind in kinds.items()) + bytes(4 * count)
    signature = rpm_header((273, TEXT, [hashlib.sha256(shared).hexdigest()]))
    package = rpm()[:96] + signature + bytes(-len(signature) % 8) + shared
    assert peak(package) < 20 * len(package)


def test_paths_that_grow_out_of_one_directory_are_refused(monkeypatch):
    monkeypatch.setattr(paths, "MAX_NAMES", 1000)
    with pytest.raises(TooLargeError, match="the names of its files"):
        files(rpm(changes=[(1118, TEXTS, ["/" + "d" * 2000 + "/", "/"])]))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data):
    for read in (hash_initrd, hash_deb, read_rpm, hash_cpio):
        for lead in (b"", b"!<arch>\n", b"\xed\xab\xee\xdb" + bytes(92) + b"\x8e\xad\xe8\x01" + bytes(4), b"070701"):
            try:
                list(read(io.BufferedReader(io.BytesIO(lead + data))))
            except AttestreamError:
                continue
