"""Reads cpio archives in the form "newc", and the initial RAM disks that are made of them.

Source: Linux ``Documentation/driver-api/early-userspace/buffer-format.rst`` and ``init/initramfs.c``.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from attestream.errors import MalformedError, TooLargeError
from attestream.reference.collected import HashedFile, hasher
from attestream.reference.compression import BUFFER, inflated, kind_of
from attestream.reference.paths import NameSpace, logged_path

MAX_MEMBERS: Final = 1_000_000
MAX_NAME: Final = 4096
"""Bytes of a name."""

_MAGICS: Final = (b"070701", b"070702")
_HEADER: Final = 110
_TRAILER: Final = b"TRAILER!!!"
_NUMBERS: Final = re.compile(rb"[0-9A-Fa-f]{104}")


class _Header(NamedTuple):
    inode: tuple[int, int, int]
    mode: int
    links: int
    size: int
    name_size: int


def hash_initrd(source: BinaryIO, algorithm: str = "sha256") -> Iterator[HashedFile]:
    """Yield the regular files of an initial RAM disk: archives behind one another, the last of them compressed as a rule.

    :param source: a stream that can be peeked into, such as ``open(path, "rb")``.
    :raises MalformedError: when it is not made of such archives.
    :raises UnsupportedError: when it is compressed by what can not be decompressed here.
    :raises TooLargeError: when it is over its bounds.
    """
    found = False
    while start := _skip_zeros(source):
        kind = "" if start in _MAGICS else kind_of(start)
        if not kind and start not in _MAGICS:
            raise MalformedError("this is not an initial RAM disk: neither a cpio archive nor compressed")
        found = True
        if kind:
            yield from _hash_archives(inflated(source, kind), algorithm)
            return
        yield from hash_cpio(source, algorithm)
    if not found:
        raise MalformedError("the initial RAM disk is empty")


def _hash_archives(source: BinaryIO, algorithm: str) -> Iterator[HashedFile]:
    while start := _skip_zeros(source):
        if start not in _MAGICS:
            raise MalformedError("what is compressed in the initial RAM disk is not a cpio archive")
        yield from hash_cpio(source, algorithm)


def _skip_zeros(source: BinaryIO) -> bytes:
    """Read over zeros and return the 6 bytes behind them, which stay unread; empty at the end."""
    while start := source.peek(512)[:512]:  # type: ignore[attr-defined]  # BufferedReader has it
        zeros = len(start) - len(start.lstrip(b"\x00"))
        if zeros == 0:
            return bytes(start[:6])
        source.read(zeros)
    return b""


def hash_cpio(source: BinaryIO, algorithm: str = "sha256") -> Iterator[HashedFile]:
    """Yield the regular files of one archive, and read to its end.

    :raises MalformedError: when it is damaged, or names what is not in it.
    :raises TooLargeError: when it has more than :data:`MAX_MEMBERS` members, or their names take too much.
    """
    name_of_hash = hasher(algorithm)
    # Of files with several names, only the last member has the content.
    waiting: dict[tuple[int, int, int], list[str]] = {}
    space = NameSpace()
    for _ in range(MAX_MEMBERS):
        header = _header(_exactly(source, _HEADER))
        name = _exactly(source, header.name_size).rstrip(b"\x00")
        _exactly(source, -(_HEADER + header.name_size) % 4)
        if name == _TRAILER:
            return
        digest = hashlib.new(name_of_hash, usedforsecurity=False)
        left = header.size
        while left:
            chunk = _exactly(source, min(left, BUFFER))
            digest.update(chunk)
            left -= len(chunk)
        _exactly(source, -header.size % 4)
        if not stat.S_ISREG(header.mode):
            continue
        path = logged_path(name.decode("utf-8", "surrogateescape"))
        space.take(path)
        if header.links > 1:
            names = waiting.setdefault(header.inode, [])
            names.append(path)
            if not header.size and len(names) < header.links:
                continue
            del waiting[header.inode]
        else:
            names = [path]
        text = f"{algorithm}:{digest.hexdigest()}"
        yield from (HashedFile(each, text) for each in names)
    raise TooLargeError(f"the archive has more than {MAX_MEMBERS} members")


def _header(data: bytes) -> _Header:
    if data[:6] not in _MAGICS:
        raise MalformedError('the archive has a member that is not of the form "newc"')
    if not _NUMBERS.fullmatch(data, 6):
        raise MalformedError("a member of the archive has a damaged header")
    numbers = [int(data[at : at + 8], 16) for at in range(6, _HEADER, 8)]
    inode, mode, _, _, links, _, size, major, minor, _, _, name_size, _ = numbers
    if not 1 <= name_size <= MAX_NAME:
        raise MalformedError("a member of the archive has a name of an odd size")
    return _Header((major, minor, inode), mode, links, size, name_size)


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size) if size else b""
    if len(data) != size:
        raise MalformedError("the archive ends within a member")
    return data
