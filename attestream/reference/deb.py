"""Reads Debian packages and the index of their repositories.

Source: deb(5), deb-control(5), Debian repository format. Nothing is unpacked: the files in a package are hashed as they
pass by. The digests that a package itself brings along are MD5, which tells no files apart; they are not used.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final, Self

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.reference.collected import HashedFile, hasher
from attestream.reference.compression import BUFFER, inflated, kind_of
from attestream.reference.paths import NameSpace, logged_path

MAX_MEMBERS: Final = 1_000_000
MAX_INDEX_BYTES: Final = 512 << 20
MAX_LINE: Final = 1 << 20
"""Bytes of a line of an index."""

MAX_LONG_NAME: Final = 8192
"""Bytes of a name that stands before the header of its member: a path of Linux has at most 4096."""

_ENDS: Final = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]  # not in the stubs
_LONG_NAMES: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS: Final = (
    *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    *_LONG_NAMES,
)
"""What deb(5) allows: neither the extended headers of POSIX nor sparse files, which both can say much with few bytes."""
_FIELDS: Final = (b"filename", b"sha256")
"""Fields of an index that are read, in small letters."""
_ARCHIVE: Final = b"!<arch>\n"
_MEMBER: Final = 60


def hash_deb(source: BinaryIO, algorithm: str = "sha256", *, merged_usr: bool = False) -> Iterator[HashedFile]:
    """Yield the regular files that a package installs.

    :param source: a stream that can be sought in.
    :param merged_usr: see :func:`attestream.reference.paths.logged_path`.
    :raises MalformedError: when it is not such a package, or is damaged.
    :raises UnsupportedError: when it is compressed by what can not be decompressed here.
    :raises TooLargeError: when it is over its bounds.
    """
    part = _data_member(source)
    kind = kind_of(part.peek(6)[:6])
    name = hasher(algorithm)
    known: dict[str, str] = {}
    space = NameSpace()
    try:
        with tarfile.open(fileobj=inflated(part, kind), mode="r|", tarinfo=_Member) as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise TooLargeError(f"the package has more than {MAX_MEMBERS} members")
                # What has gone by is not needed again.
                archive.members.clear()  # type: ignore[attr-defined]  # not in the stubs
                digest = _digest(archive, member, name, known)
                if digest:
                    space.take(member.name)
                    known[member.name] = digest
                    yield HashedFile(logged_path(member.name, merged_usr=merged_usr), f"{algorithm}:{digest}")
    except (tarfile.TarError, EOFError, OSError, RecursionError) as error:
        raise MalformedError(f"the package's data.tar is damaged: {error}") from error


class _Member(tarfile.TarInfo):
    """A member whose header is whole, of a kind that packages have, and with a name that is not too long to be held."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if isinstance(error, _ENDS):
                raise
            # Otherwise the archive would silently end here.
            raise MalformedError(f"the package's data.tar has a damaged header: {error}") from error
        if member.type not in _KINDS or member.size < 0:
            raise MalformedError("the package's data.tar has a member of a kind that packages do not have")
        if member.type in _LONG_NAMES and member.size > MAX_LONG_NAME:
            raise TooLargeError(f"a name in the package's data.tar has more than {MAX_LONG_NAME} bytes")
        return member


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, known: Mapping[str, str]) -> str:
    """Return the digest of a member in hex; empty for what is no file."""
    if member.islnk():
        # A hard link: its content came before.
        return known.get(member.linkname, "")
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        return ""
    digest = hashlib.new(name, usedforsecurity=False)
    while chunk := content.read(BUFFER):
        digest.update(chunk)
    return digest.hexdigest()


def _data_member(source: BinaryIO) -> io.BufferedReader:
    """Return ``data.tar`` of a package, still compressed."""
    if source.read(len(_ARCHIVE)) != _ARCHIVE:
        raise MalformedError("this is not a Debian package: it is no `ar` archive")
    while header := source.read(_MEMBER):
        if len(header) != _MEMBER or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise MalformedError("the package has a member with a damaged header")
        name, size = header[:16].rstrip(b" /"), int(header[48:58])
        if name.startswith(b"data.tar"):
            return io.BufferedReader(_Window(source, size), BUFFER)
        source.seek(size + size % 2, io.SEEK_CUR)
    raise MalformedError("the package has no data.tar")


class _Window(io.RawIOBase):
    """The next bytes of another stream."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        super().__init__()
        self._source = source
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        data = self._source.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def read_packages_index(source: BinaryIO) -> dict[str, str]:
    """Return the packages of an index (``Packages``, decompressed): name from the root of the repository -> SHA-256 in hex.

    :raises MalformedError: when an entry has no file name.
    :raises UnsupportedError: when an entry has only weak digests.
    :raises TooLargeError: when it is over its bounds.
    """
    found: dict[str, str] = {}
    space = NameSpace()
    fields: dict[bytes, bytes] = {}
    for line in _lines(source):
        if line.startswith((b" ", b"\t")):
            continue  # goes on with a field; none of ours is that long
        if line:
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            fields[name if name in _FIELDS else b""] = value.strip()
        elif fields:
            file, digest = _listed(fields)
            space.take(file)
            found[file] = digest
            fields = {}
    return found


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of an index without their ends, and an empty one behind the last."""
    left = MAX_INDEX_BYTES
    while line := source.readline(MAX_LINE + 1):
        left -= len(line)
        if left < 0 or len(line) > MAX_LINE:
            raise TooLargeError(f"a package index has at most {MAX_INDEX_BYTES} bytes, and {MAX_LINE} in a line")
        yield line.rstrip(b"\r\n")
    yield b""


def _listed(fields: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return file name and digest of an entry."""
    file = fields.get(b"filename", b"").decode("utf-8", "replace")
    digest = fields.get(b"sha256", b"").decode("utf-8", "replace").lower()
    if not file:
        raise MalformedError("an entry of the package index has no Filename")
    if len(digest) != 64:
        raise UnsupportedError(
            f"the package index has no SHA256 for {file[:100]!r}, only weak digests",
            remedy="Give the packages themselves instead of the repository.",
        )
    return file, digest
