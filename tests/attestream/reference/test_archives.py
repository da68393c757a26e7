"""Reading of initial RAM disks and packages, whole and hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import stat
import struct
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.reference.compression import inflated
from attestream.reference.cpio import hash_cpio, hash_initrd
from attestream.reference.deb import hash_deb, read_packages_index
from attestream.reference.paths import logged_path
from attestream.reference.rpm import read_primary, read_repomd, read_rpm


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(name: str, data: bytes = b"", *, mode: int = stat.S_IFREG | 0o755, inode: int = 1, links: int = 1) -> bytes:
    raw = name.encode("utf-8", "surrogateescape") + b"\x00"
    fields = (inode, mode, 0, 0, links, 0, len(data), 8, 1, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def cpio(*members: bytes) -> bytes:
    whole = b"".join(members) + member("TRAILER!!!", mode=0)
    return whole + bytes(-len(whole) % 512)


def initrd(data: bytes) -> dict[str, str]:
    return dict(hash_initrd(io.BufferedReader(io.BytesIO(data))))


SIMPLE = cpio(
    member(".", mode=stat.S_IFDIR | 0o755),
    member("usr/bin/a b", b"program"),
    member("./init", b"#!/bin/sh\n"),
    member("bin", b"usr/bin", mode=stat.S_IFLNK | 0o777),
    member("one", inode=7, links=2),
    member("two", b"linked", inode=7, links=2),
)
SIMPLE_FILES = {
    "/usr/bin/a_b": sha256(b"program"),
    "/init": sha256(b"#!/bin/sh\n"),
    "/one": sha256(b"linked"),
    "/two": sha256(b"linked"),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_an_initrd_is_microcode_and_a_compressed_archive(compress):
    early = cpio(member("kernel/x86/microcode/GenuineIntel.bin", b"microcode"))
    files = initrd(early + compress(SIMPLE))
    assert files == {"/kernel/x86/microcode/GenuineIntel.bin": sha256(b"microcode"), **SIMPLE_FILES}


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
    whole = SIMPLE + cpio(member("big", bytes(3 << 20)))
    packed = subprocess.run(["zstd", "-c"], input=whole, capture_output=True, check=True).stdout
    files = initrd(early + packed)
    assert len(files) == len(SIMPLE_FILES) + 2
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
        SIMPLE[:200],
        SIMPLE[:-600],
        b"070701" + b"G" * 104,
        member("a").replace(b"00000002", b"FFFFFFFF"),
        gzip.compress(b"no archive within"),
        gzip.compress(SIMPLE)[:-20],
    ],
    ids=["nothing", "text", "cut", "no end", "no numbers", "endless name", "zipped text", "cut zip"],
)
def test_a_damaged_initrd_is_refused(data):
    with pytest.raises(AttestreamError):
        initrd(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data):
    for read in (hash_initrd, hash_deb, read_rpm, hash_cpio):
        for lead in (b"", b"!<arch>\n", b"\xed\xab\xee\xdb" + bytes(92) + b"\x8e\xad\xe8\x01" + bytes(4), b"070701"):
            try:
                list(read(io.BufferedReader(io.BytesIO(lead + data))))
            except AttestreamError:
                continue


@given(st.integers(0, len(SIMPLE) - 1), st.integers(1, 255))
def test_an_altered_initrd_is_read_or_refused(place, change):
    data = bytearray(SIMPLE)
    data[place] ^= change
    try:
        initrd(bytes(data))
    except AttestreamError:
        return


def test_an_archive_bomb_is_stopped():
    with pytest.raises(TooLargeError):
        inflated(io.BytesIO(gzip.compress(bytes(1 << 20))), "gzip", 1 << 16).read()


def tar(*, compress=gzip.compress, **files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/bin/hard")
        link.type, link.linkname = tarfile.LNKTYPE, next(iter(files)).replace("__", "/")
        archive.addfile(link)
        soft = tarfile.TarInfo("./usr/bin/soft")
        soft.type, soft.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(soft)
    return compress(made.getvalue())


def ar(**members: bytes) -> bytes:
    made = b"!<arch>\n"
    for name, data in members.items():
        head = f"{name.replace('_', '.'):<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        made += head + data + b"\n" * (len(data) % 2)
    return made


def deb(**files: bytes) -> bytes:
    return ar(**{"debian-binary": b"2.0\n", "control_tar_gz": b"odd", "data_tar_gz": tar(**files)})


def test_a_package_is_hashed_without_being_unpacked():
    package = deb(**{".__bin__ls": b"list", ".__etc__a b": b"conf"})
    assert dict(hash_deb(io.BytesIO(package))) == {
        "/bin/ls": sha256(b"list"),
        "/etc/a_b": sha256(b"conf"),
        "/usr/bin/hard": sha256(b"list"),
    }
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
    (root / "opt").mkdir()
    (root / "opt" / "tool").write_bytes(b"tool" * 1000)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{kind}", "-b", str(root), str(tmp_path / "a.deb")],
        check=True,
        capture_output=True,
    )
    with (tmp_path / "a.deb").open("rb") as file:
        assert dict(hash_deb(file)) == {"/opt/tool": sha256(b"tool" * 1000)}


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"!<arch>\n",
        b"no package",
        deb(a=b"x")[:-300],
        ar(data_tar_gz=b"no gzip"),
        ar(data_tar_gz=gzip.compress(b"no tar" * 200)),
        deb(**{"..__..__x": b"slip"}),
        deb(a=b"x").replace(b"`\n", b"``", 1),
    ],
    ids=["nothing", "no member", "text", "cut", "no zip", "no tar", "slip", "bad header"],
)
def test_a_damaged_package_is_refused(package):
    with pytest.raises(MalformedError):
        list(hash_deb(io.BytesIO(package)))


def test_an_extended_header_that_fills_the_memory_is_refused():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 4 << 30
    with pytest.raises(TooLargeError, match="extended header"):
        list(hash_deb(io.BytesIO(ar(data_tar=header.tobuf()))))


def test_a_damaged_member_does_not_end_the_package_silently():
    whole = tar(compress=bytes, a=b"a" * 600, b=b"b")
    damaged = whole[:1536] + b"\x01" + whole[1537:]
    assert len(list(hash_deb(io.BytesIO(ar(data_tar=whole))))) == 3
    with pytest.raises(MalformedError, match="damaged header"):
        list(hash_deb(io.BytesIO(ar(data_tar=damaged))))


def test_an_index_without_strong_digests_is_refused():
    good = "Package: a\nFilename: pool/a.deb\nSHA256: " + "0" * 64 + "\nDescription: b\n c: d\n\n"
    assert read_packages_index(io.BytesIO(good.encode())) == {"pool/a.deb": "0" * 64}
    with pytest.raises(UnsupportedError, match="only weak digests"):
        read_packages_index(io.BytesIO(b"Package: a\nFilename: pool/a.deb\nMD5sum: 00\n"))
    with pytest.raises(MalformedError):
        read_packages_index(io.BytesIO(b"Package: a\n"))


def header(*tags: tuple[int, int, list]) -> bytes:
    index, store = b"", b""
    for tag, kind, values in tags:
        size = {3: 2, 4: 4}.get(kind, 1)
        store += bytes(-len(store) % size)
        index += struct.pack(">IIII", tag, kind, len(store), len(values))
        if kind in (3, 4):
            store += struct.pack(f">{len(values)}{'H' if kind == 3 else 'I'}", *values)
        else:
            store += b"".join(value.encode() + b"\x00" for value in values)
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(store)) + index + store


def rpm(*, algorithm: int = 8, digest: str = "ab" * 32, changes: tuple = (), header_digest: str = "") -> bytes:
    main = header(
        (1030, 3, [stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777]),
        (1035, 8, [digest, "", "cd" * 32, ""]),
        (1037, 4, [0, 0, 0x40, 0]),
        (1116, 4, [0, 1, 1, 0]),
        (1117, 8, ["tool", "d", "ghost", "link"]),
        (1118, 8, ["/bin/", "/var/"]),
        (5011, 4, [algorithm]),
        *changes,
    )
    signature = header((273, 6, [header_digest or hashlib.sha256(main).hexdigest()]))
    return b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main + b"payload"


def test_digests_are_taken_from_the_header():
    assert dict(read_rpm(io.BytesIO(rpm()))) == {"/bin/tool": "sha256:" + "ab" * 32}
    assert dict(read_rpm(io.BytesIO(rpm()), merged_usr=True)) == {"/usr/bin/tool": "sha256:" + "ab" * 32}
    assert dict(read_rpm(io.BytesIO(rpm(algorithm=10, digest="AB" * 64)))) == {"/bin/tool": "sha512:" + "ab" * 64}


@pytest.mark.parametrize("algorithm", [1, 77])
def test_weak_digests_are_not_taken(algorithm):
    with pytest.raises(UnsupportedError, match="only weak digests"):
        list(read_rpm(io.BytesIO(rpm(algorithm=algorithm, digest="ab" * 16))))


@pytest.mark.parametrize(
    "package",
    [
        rpm(header_digest="0" * 64),
        rpm(digest="xy" * 32),
        rpm()[:300],
        rpm(changes=((1117, 8, ["one"]),)),
        rpm(changes=((1116, 4, [9, 9, 9, 9]),)),
        rpm(changes=((1118, 8, ["/../", "/.."]),)),
        rpm().replace(struct.pack(">III", 1030, 3, 0), struct.pack(">III", 1030, 3, 0x7FFFFFFF)),
    ],
)
def test_a_damaged_header_is_refused(package):
    with pytest.raises(AttestreamError):
        list(read_rpm(io.BytesIO(package)))


def test_repository_metadata_can_not_expand():
    """CVE-2003-1564 ("billion laughs")."""
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    for read in (read_repomd, read_primary):
        for data in (bomb, bomb.decode().encode("utf-16"), b"<x", b""):
            with pytest.raises(MalformedError):
                read(data)
