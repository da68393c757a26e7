"""Targets that read what runtime policies are made of: archives, packages, repositories, lists and logs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from attestream.errors import MalformedError
from attestream.interop.excludes import compile_excludes, native_excludes, read_exclude_list
from attestream.reference.collected import Collected, HashedFile
from attestream.reference.compression import MAX_WINDOW, inflated, kind_of
from attestream.reference.cpio import hash_initrd
from attestream.reference.deb import hash_deb, read_packages_index
from attestream.reference.lists import add_flat_list, add_measurements
from attestream.reference.repodata import read_primary, read_repomd
from attestream.reference.rpm import read_rpm
from devtools import ima_log
from devtools.package_maker import (
    INITRD,
    cpio,
    deb,
    member,
    packages_index,
    primary,
    repomd,
    rpm,
    tar_link,
)
from fuzz.target import Target

_DIGEST: Final = "ab" * 32
_PROGRAMS: Final = ("zstd", "lz4")


def _alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


def _compressed(data: bytes) -> list[bytes]:
    """Return ``data`` compressed in every way that can be read here."""
    made = [data, gzip.compress(data, mtime=0), lzma.compress(data), _alone(data), bz2.compress(data)]
    programs = filter(None, map(shutil.which, _PROGRAMS))
    made += [subprocess.run([path, "-c"], input=data, capture_output=True, check=True).stdout for path in programs]
    return made


def _read(reader: Callable[[BinaryIO], Iterator[HashedFile]]) -> Callable[[bytes], object]:
    """Return what reads an archive as a file is read, and keeps nothing of it."""
    return lambda data: sum(1 for _ in reader(io.BufferedReader(io.BytesIO(data))))


def _initrds() -> list[bytes]:
    early = cpio(member("kernel/x86/microcode/GenuineIntel.bin", b"microcode"))
    return [INITRD, *(early + packed for packed in _compressed(INITRD))]


def _debs() -> list[bytes]:
    links = (tar_link("./usr/bin/hard", "./bin/ls"), tar_link("./usr/bin/soft", "/etc/shadow", tarfile.SYMTYPE))
    files = {"./bin/ls": b"list" * 200, f"./{'n' * 120}": b""}
    return [deb(files, *links, compress=pack, suffix="") for pack in (bytes, gzip.compress, lzma.compress)]


def _metadata(data: bytes) -> object:
    for read in (read_repomd, read_primary):
        try:
            read(io.BytesIO(data))
        except MalformedError:
            continue
    return None


def _inflate(data: bytes) -> object:
    stream = inflated(io.BytesIO(data), kind_of(data))
    return sum(len(part) for part in iter(lambda: stream.read(1 << 16), b""))


def _flat_list(data: bytes) -> object:
    return add_flat_list(data.decode("utf-8", "surrogateescape"), Collected())


def _excludes(data: bytes) -> object:
    listed = read_exclude_list(data.decode("utf-8", "surrogateescape"))
    compile_excludes(listed)
    return native_excludes(listed)


def _measurements(data: bytes) -> object:
    into = Collected()
    add_measurements(data, into)
    return into.document()


def _logs() -> list[bytes]:
    records = [
        ima_log.record("/usr/bin/ls", b"d" * 32),
        ima_log.buffer("kexec-cmdline", b"quiet"),
        ima_log.violation("/var/log/journal"),
    ]
    return [b"".join(one.binary for one in records), "\n".join(one.ascii for one in records).encode()]


ARCHIVES: Final = (
    Target("inflated", _inflate, lambda: _compressed(b"content" * 100)[1:], MAX_WINDOW),
    Target("initrd", _read(hash_initrd), _initrds, MAX_WINDOW),
    Target("deb", _read(hash_deb), _debs, MAX_WINDOW),
    Target("deb_index", lambda data: read_packages_index(io.BytesIO(data)), lambda: [packages_index({"a.deb": _DIGEST})]),
    Target("rpm", _read(read_rpm), lambda: [rpm()]),
    Target("repodata", _metadata, lambda: [repomd("primary.xml", _DIGEST), primary({"a.rpm": _DIGEST})]),
    Target("flat_list", _flat_list, lambda: [f"# all\n{_DIGEST}  /opt/a b\n{_DIGEST} %keyring:.ima\n".encode()]),
    Target("exclude_list", _excludes, lambda: [b"# none\n/var/tmp/.*\n/a{2,3}|[^b\\d]+?$\n"]),
    Target("measurements", _measurements, _logs),
)
"""Every parser of what is given to ``attestream policy create runtime``."""
