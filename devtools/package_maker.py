"""Makes initial RAM disks, Debian and RPM packages and lists of repositories, byte by byte, right ones and wrong ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Final

FILE: Final = stat.S_IFREG | 0o755
DIRECTORY: Final = stat.S_IFDIR | 0o755
LINK: Final = stat.S_IFLNK | 0o777

INT16, INT32, TEXT, TEXTS = 3, 4, 6, 8
"""Types of the tags of an RPM header."""

Tag = tuple[int, int, Sequence[int | str]]
"""Number, type and values."""


def member(name: str, data: bytes = b"", *, mode: int = FILE, inode: int = 1, links: int = 1) -> bytes:
    """Return a member of a cpio archive."""
    raw = name.encode("utf-8", "surrogateescape") + b"\x00"
    fields = (inode, mode, 0, 0, links, 0, len(data), 8, 1, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def cpio(*members: bytes) -> bytes:
    """Return an archive of ``members``, padded as the kernel's build does it."""
    whole = b"".join(members) + member("TRAILER!!!", mode=0)
    return whole + bytes(-len(whole) % 512)


INITRD: Final = cpio(
    member(".", mode=DIRECTORY),
    member("usr/bin/a b", b"program"),
    member("./init", b"#!/bin/sh\n"),
    member("bin", b"usr/bin", mode=LINK),
    member("one", inode=7, links=2),
    member("two", b"linked", inode=7, links=2),
)
"""A sample with everything that there is in one."""
INITRD_FILES: Final = {"/usr/bin/a_b": b"program", "/init": b"#!/bin/sh\n", "/one": b"linked", "/two": b"linked"}
"""Path as the kernel logs it -> content."""


def tar(files: Mapping[str, bytes], *links: tarfile.TarInfo) -> bytes:
    """Return the archive of a package's files, and then ``links``."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for link in links:
            archive.addfile(link)
    return made.getvalue()


def tar_link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    """Return a link for :func:`tar`: a hard one, unless ``kind`` says otherwise."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def ar(members: Mapping[str, bytes]) -> bytes:
    """Return an `ar` archive."""
    made = b"!<arch>\n"
    for name, data in members.items():
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return made


def deb(
    files: Mapping[str, bytes],
    *links: tarfile.TarInfo,
    compress: Callable[[bytes], bytes] = gzip.compress,
    suffix: str = ".gz",
) -> bytes:
    """Return a Debian package with ``files``."""
    return ar({"debian-binary": b"2.0\n", "control.tar.gz": b"odd", f"data.tar{suffix}": compress(tar(files, *links))})


def packages_index(packages: Mapping[str, str]) -> bytes:
    """Return the index ``Packages`` of a repository: file name -> SHA-256."""
    entries = (
        f"Package: a\nFilename: {name}\nSHA256: {digest}\nDescription: b\n c: d\n" for name, digest in packages.items()
    )
    return "\n".join(entries).encode()


def rpm_header(*tags: Tag) -> bytes:
    """Return a header of an RPM package."""
    index, store = b"", b""
    for tag, kind, values in tags:
        size = {INT16: 2, INT32: 4}.get(kind, 1)
        store += bytes(-len(store) % size)
        index += struct.pack(">IIII", tag, kind, len(store), len(values))
        if size > 1:
            store += struct.pack(f">{len(values)}{'H' if kind == INT16 else 'I'}", *values)
        else:
            store += b"".join(str(value).encode() + b"\x00" for value in values)
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(store)) + index + store


def rpm(*, algorithm: int = 8, digest: str = "ab" * 32, changes: Sequence[Tag] = (), header_digest: str = "") -> bytes:
    """Return a package of ``/bin/tool``, which has ``digest``, a directory, a file that is not in it, and a link.

    :param algorithm: number of the digest's algorithm.
    :param changes: tags in place of its own.
    """
    return rpm_of(
        (1030, INT16, [FILE, DIRECTORY, stat.S_IFREG | 0o644, LINK]),
        (1035, TEXTS, [digest, "", "cd" * 32, ""]),
        (1037, INT32, [0, 0, 0x40, 0]),
        (1116, INT32, [0, 1, 1, 0]),
        (1117, TEXTS, ["tool", "d", "ghost", "link"]),
        (1118, TEXTS, ["/bin/", "/var/"]),
        (5011, INT32, [algorithm]),
        *changes,
        header_digest=header_digest,
    )


def rpm_of(*tags: Tag, header_digest: str = "") -> bytes:
    """Return a package whose header has ``tags``."""
    main = rpm_header(*tags)
    signature = rpm_header((273, TEXT, [header_digest or hashlib.sha256(main).hexdigest()]))
    return b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main + b"payload"


def repomd(place: str, digest: str, algorithm: str = "sha256") -> bytes:
    """Return ``repomd.xml``, which says where the list of packages is."""
    return (
        '<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="primary">'
        f'<checksum type="{algorithm}">{digest}</checksum><location href="{place}"/></data></repomd>'
    ).encode()


def primary(packages: Mapping[str, str]) -> bytes:
    """Return a list of packages: place -> SHA-256."""
    listed = "".join(
        f'<package type="rpm"><name>a</name><checksum type="sha256" pkgid="YES">{digest}</checksum>'
        f'<location href="{place}"/></package>'
        for place, digest in packages.items()
    )
    return f'<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common">{listed}</metadata>'.encode()
