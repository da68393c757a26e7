"""Reading of the metadata of RPM repositories, whole and hostile."""

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError
from attestream.reference.repodata import read_primary, read_repomd
from devtools.package_maker import primary, repomd

COMMON = b'<metadata xmlns="http://linux.duke.edu/metadata/common">'


def packages(data: bytes) -> dict[str, tuple[str, str]]:
    return read_primary(io.BytesIO(data))


def test_the_list_of_packages_is_found():
    assert read_repomd(io.BytesIO(repomd("repodata/primary.xml.gz", "AB" * 32))) == (
        "repodata/primary.xml.gz",
        "sha256",
        "ab" * 32,
    )
    for other in (b'<repomd xmlns="http://linux.duke.edu/metadata/repo"/>', primary({}), repomd("", "ab")):
        with pytest.raises(MalformedError, match="names no list"):
            read_repomd(io.BytesIO(other))


@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,9}/[a-z0-9.-]{1,20}\Z"), st.binary(min_size=32, max_size=32), max_size=5))
def test_what_a_repository_lists_comes_out(listed):
    digests = {name: digest.hex() for name, digest in listed.items()}
    assert packages(primary(digests)) == {name: ("sha256", digest) for name, digest in digests.items()}


def test_a_package_without_place_or_digest_is_refused():
    for data in (primary({"": "ab"}), primary({"a": ""}), COMMON + b"<package/></metadata>"):
        with pytest.raises(MalformedError, match="without place or digest"):
            packages(data)


def test_repository_metadata_can_not_expand():
    """CVE-2003-1564 ("billion laughs")."""
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    for read in (read_repomd, read_primary):
        for data in (bomb, bomb.decode().encode("utf-16"), b"<x", b""):
            with pytest.raises(MalformedError):
                read(io.BytesIO(data))


@pytest.mark.parametrize(
    "data",
    [
        COMMON + b"<a>" * 100_000,
        COMMON + b"".join(b"<e%x/>" % number for number in range(50_000)),
        COMMON + b"<e " + b"".join(b"a%x=''" % number for number in range(50_000)) + b"/>",
        COMMON + b"<package><checksum>" + b"a<!---->" * 50_000,
        COMMON + b"<a b='' c=''/>" * 50_000 + b"</metadata",
    ],
    ids=["depth", "names", "attributes", "text", "elements"],
)
def test_what_makes_a_parser_take_memory_is_refused(data):
    tracemalloc.start()
    try:
        with pytest.raises(AttestreamError):
            packages(data)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()
