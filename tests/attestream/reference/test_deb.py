"""Reading of Debian packages and of the index of a repository, whole and hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.reference import deb as reading
from attestream.reference import paths
from attestream.reference.deb import hash_deb, read_packages_index
from devtools.package_maker import ar, deb, packages_index, tar, tar_link

LINKS = (tar_link("./usr/bin/hard", "./bin/ls"), tar_link("./usr/bin/soft", "/etc/shadow", tarfile.SYMTYPE))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files(package: bytes) -> dict[str, str]:
    return dict(hash_deb(io.BytesIO(package)))


def of_tar(data: bytes) -> bytes:
    return ar({"data.tar": data})


def test_a_package_is_hashed_without_being_unpacked():
    package = deb({"./bin/ls": b"list", "./etc/a b": b"conf"}, *LINKS)
    assert files(package) == {"/bin/ls": sha256(b"list"), "/etc/a_b": sha256(b"conf"), "/usr/bin/hard": sha256(b"list")}
    merged = dict(hash_deb(io.BytesIO(package), "sha512", merged_usr=True))
    assert merged["/usr/bin/ls"] == f"sha512:{hashlib.sha512(b'list').hexdigest()}"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
@pytest.mark.parametrize("kind", ["gzip", "xz", "none"])
def test_packages_of_dpkg_are_read(tmp_path, kind):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: none\n"
    )
    long = "/".join(["directory"] * 20)
    (root / "opt" / long).mkdir(parents=True)
    (root / "opt" / "tool").write_bytes(b"tool" * 1000)
    (root / "opt" / long / "tool").hardlink_to(root / "opt" / "tool")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{kind}", "-b", str(root), str(tmp_path / "a.deb")],
        check=True,
        capture_output=True,
    )
    with (tmp_path / "a.deb").open("rb") as file:
        assert dict(hash_deb(file)) == dict.fromkeys(("/opt/tool", f"/opt/{long}/tool"), sha256(b"tool" * 1000))


# Long names included, which stand in a member of their own.
NAMES = st.text(st.characters(whitelist_categories=["Ll", "Nd", "Sm"]), min_size=1, max_size=150)


@given(st.dictionaries(NAMES, st.binary(max_size=600), max_size=4), st.sampled_from([bytes, gzip.compress, lzma.compress]))
def test_what_is_put_into_a_package_comes_out(content, compress):
    package = deb({f"./{name}": data for name, data in content.items()}, compress=compress, suffix="")
    assert files(package) == {f"/{name}": sha256(data) for name, data in content.items()}


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"!<arch>\n",
        b"no package",
        deb({"a": b"x"})[:-30],
        ar({"data.tar.gz": b"no gzip"}),
        ar({"data.tar.gz": gzip.compress(b"no tar" * 200)}),
        deb({"../../x": b"slip"}),
        deb({"a": b"x"}).replace(b"`\n", b"``", 1),
    ],
)
def test_a_damaged_package_is_refused(package):
    with pytest.raises(MalformedError):
        files(package)


def test_a_damaged_member_does_not_end_the_package_silently():
    whole = tar({"a": b"a" * 600, "b": b"b"}, tar_link("c", "a"))
    assert len(files(of_tar(whole))) == 3
    with pytest.raises(MalformedError, match="damaged header"):
        files(of_tar(whole[:1536] + b"\x01" + whole[1537:]))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_members_that_say_much_with_few_bytes_are_refused(kind):
    """CVE-2024-6232 (headers that take quadratic time), and a sparse file of exabytes, which has no content to hash."""
    info = tarfile.TarInfo("x")
    info.type = kind
    with pytest.raises(MalformedError, match="of a kind that packages do not have"):
        files(of_tar(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


def test_a_member_of_negative_size_is_refused():
    """CVE-2025-8194: the archive would be read in a circle."""
    info = tarfile.TarInfo("x")
    info.size = -512
    with pytest.raises(MalformedError):
        files(of_tar(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


def test_a_long_name_that_fills_the_memory_is_refused():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    with pytest.raises(TooLargeError, match="a name in the package"):
        files(of_tar(info.tobuf(tarfile.GNU_FORMAT)))


def test_long_names_of_long_names_do_not_exhaust_the_stack():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    one = info.tobuf(tarfile.GNU_FORMAT) + b"n" * 512
    with pytest.raises(MalformedError):
        files(of_tar(one * 2000))


def test_names_that_inflate_to_gigabytes_are_refused(monkeypatch):
    monkeypatch.setattr(paths, "MAX_NAMES", 1 << 16)
    with pytest.raises(TooLargeError, match="the names of its files"):
        files(deb({f"./{number:050}": b"" for number in range(300)}))


def test_an_index_without_strong_digests_is_refused():
    good = packages_index({"pool/a.deb": "0" * 64, "pool/b.deb": "1" * 64})
    listed = {"pool/a.deb": "0" * 64, "pool/b.deb": "1" * 64}
    for form in (good, good.rstrip(), good.replace(b"\n", b"\r\n"), b"\n\n" + good + b"\n\n\n"):
        assert read_packages_index(io.BytesIO(form)) == listed
    with pytest.raises(UnsupportedError, match="only weak digests"):
        read_packages_index(io.BytesIO(b"Package: a\nFilename: pool/a.deb\nMD5sum: 00\n"))
    with pytest.raises(MalformedError):
        read_packages_index(io.BytesIO(b"Package: a\n"))


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_line_feeds_end_a_line_of_an_index(separator):
    """A description that holds another end of a line must not name a package."""
    sly = f"Filename: pool/a.deb\nSHA256: {'0' * 64}\nDescription: x{separator}Filename: pool/evil.deb\n"
    assert read_packages_index(io.BytesIO(sly.encode())) == {"pool/a.deb": "0" * 64}


def test_an_index_is_read_as_it_comes_by():
    text = (
        packages_index({"pool/a.deb": "0" * 64}) + b"\n" + b"Field: value\n" * 50_000 + b"Filename: b\nSHA256: " + b"1" * 64
    )
    tracemalloc.start()
    try:
        assert read_packages_index(io.BytesIO(text)) == {"pool/a.deb": "0" * 64, "b": "1" * 64}
        assert tracemalloc.get_traced_memory()[1] < len(text) // 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit", ["MAX_LINE", "MAX_INDEX_BYTES"])
def test_an_index_has_bounds(monkeypatch, limit):
    monkeypatch.setattr(reading, limit, 20)
    with pytest.raises(TooLargeError):
        read_packages_index(io.BytesIO(packages_index({"pool/a.deb": "0" * 64})))
