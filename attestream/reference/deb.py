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
from attestream.reference.compression import inflated, kind_of
from attestream.reference.paths import logged_path

MAX_MEMBERS: Final = 1_000_000
MAX_INDEX_BYTES: Final = 512 << 20

MAX_EXTENDED: Final = 1 << 20
"""Bytes of an extended header of a member."""

_ENDS: Final = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]  # not in the stubs
_EXTENDED: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_ARCHIVE: Final = b"!<arch>\n"
_MEMBER: Final = 60
_CHUNK: Final = 1 << 20


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
    try:
        with tarfile.open(fileobj=inflated(part, kind), mode="r|", tarinfo=_Member) as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise TooLargeError(f"the package has more than {MAX_MEMBERS} members")
                # What has gone by is not needed again.
                archive.members.clear()  # type: ignore[attr-defined]  # not in the stubs
                digest = _digest(archive, member, name, known)
                if digest:
                    known[member.name] = digest
                    yield HashedFile(logged_path(member.name, merged_usr=merged_usr), f"{algorithm}:{digest}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MalformedError(f"the package's data.tar is damaged: {error}") from error


class _Member(tarfile.TarInfo):
    """A member whose header is whole, and whose extended header is of a sane size: it is held in memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if isinstance(error, _ENDS):
                raise
            # Otherwise the archive would silently end here.
            raise MalformedError(f"the package's data.tar has a damaged header: {error}") from error
        if member.type in _EXTENDED and not 0 <= member.size <= MAX_EXTENDED:
            raise TooLargeError(f"an extended header of the package's data.tar has more than {MAX_EXTENDED} bytes")
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
    while chunk := content.read(_CHUNK):
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
            return io.BufferedReader(_Window(source, size), _CHUNK)
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
    text = source.read(MAX_INDEX_BYTES + 1)
    if len(text) > MAX_INDEX_BYTES:
        raise TooLargeError(f"a package index has at most {MAX_INDEX_BYTES} bytes")
    found: dict[str, str] = {}
    for paragraph in text.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n"):
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in paragraph.splitlines() if line[:1] not in ("", " ", "\t"))
        }
        if not fields:
            continue
        file, digest = fields.get("filename", ""), fields.get("sha256", "").lower()
        if not file:
            raise MalformedError("an entry of the package index has no Filename")
        if len(digest) != 64:
            raise UnsupportedError(
                f"the package index has no SHA256 for {file[:100]!r}, only weak digests",
                remedy="Give the packages themselves instead of the repository.",
            )
        found[file] = digest
    return found
