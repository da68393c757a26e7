"""Reads the headers of RPM packages.

Source: the RPM reference manual, "RPM V4 Package format" and "Header format". A header has the digest of every file, so that
the payload need not be read. Signatures of packages are not looked at: take packages from a repository that you trust.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.ima.digests import DIGEST_SIZES
from attestream.reference.collected import HashedFile
from attestream.reference.compression import BUFFER
from attestream.reference.paths import NameSpace, logged_path

MAX_HEADER_BYTES: Final = 256 << 20
MAX_TAGS: Final = 65_536
MAX_FILES: Final = 1_000_000

_LEAD: Final = 96
_LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01"
_ENTRY: Final = struct.Struct(">IIII")
_INT16, _INT32, _STRING, _STRINGS = 3, 4, 6, 8
_SHA256_OF_HEADER: Final = 273
_MODES, _DIGESTS, _FLAGS, _INDEXES, _BASENAMES, _DIRNAMES, _ALGORITHM = 1030, 1035, 1037, 1116, 1117, 1118, 5011
_GHOST: Final = 0x40
_ALGORITHMS: Final = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
"""Number in a header (RFC 4880, section 9.4) -> name. A header without number has MD5."""
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")


class _Header(NamedTuple):
    entries: Mapping[int, tuple[int, int, int]]
    """Tag -> type, offset, count."""
    store: bytes

    def numbers(self, tag: int) -> Sequence[int]:
        if tag not in self.entries:
            return ()
        kind, offset, count = self.entries[tag]
        form = {_INT16: "H", _INT32: "I"}.get(kind)
        if form is None or offset + count * struct.calcsize(form) > len(self.store):
            raise MalformedError(f"tag {tag} of the package's header is damaged")
        found = array(form, self.store[offset : offset + count * struct.calcsize(form)])
        if sys.byteorder == "little":
            found.byteswap()
        return found

    def texts(self, tag: int, most: int) -> list[str]:
        """:raises MalformedError: when there are more than ``most``: each may be of a single byte, which many tags share."""
        if tag not in self.entries:
            return []
        kind, offset, count = self.entries[tag]
        if kind not in (_STRING, _STRINGS) or offset > len(self.store) or count > most:
            raise MalformedError(f"tag {tag} of the package's header is damaged")
        found = self.store[offset:].split(b"\x00", count)
        if len(found) <= count:
            raise MalformedError(f"tag {tag} of the package's header runs over its end")
        return [text.decode("utf-8", "surrogateescape") for text in found[:count]]


def read_rpm(source: BinaryIO, *, merged_usr: bool = False) -> Iterator[HashedFile]:
    """Yield the regular files that a package installs, with the digests in its header.

    :param merged_usr: see :func:`attestream.reference.paths.logged_path`.
    :raises MalformedError: when it is not such a package, or is damaged.
    :raises UnsupportedError: when it has only weak digests of its files.
    :raises TooLargeError: when it is over its bounds.
    """
    if _read(source, _LEAD)[:4] != _LEAD_MAGIC:
        raise MalformedError("this is not an RPM package")
    signature, size = _read_header(source)
    source.read(-size % 8)
    start = source.tell()
    header, size = _read_header(source)
    if (wanted := signature.texts(_SHA256_OF_HEADER, 1)) and wanted[0] != _sha256(source, start, size):
        raise MalformedError("the package's header is not what its digest says: it is damaged")
    yield from _files(header, merged_usr)


def _files(header: _Header, merged_usr: bool) -> Iterator[HashedFile]:
    indexes, modes = header.numbers(_INDEXES), header.numbers(_MODES)
    count = len(indexes)
    flags = header.numbers(_FLAGS) or [0] * count
    names, digests, directories = (header.texts(tag, count) for tag in (_BASENAMES, _DIGESTS, _DIRNAMES))
    if not len(names) == len(digests) == len(modes) == len(flags) == count:
        raise MalformedError("the package's header tells of some of its files only")
    space = NameSpace()
    number = (header.numbers(_ALGORITHM) or [1])[0]
    algorithm = _ALGORITHMS.get(number, "")
    for name, index, digest, mode, flag in zip(names, indexes, digests, modes, flags, strict=True):
        if not digest or not stat.S_ISREG(mode) or flag & _GHOST:
            continue
        if algorithm in ("", "md5"):
            raise UnsupportedError(
                f"the package has only weak digests of its files ({algorithm or f'algorithm {number}'})",
                remedy="Rebuild it, or hash the installed files.",
            )
        if index >= len(directories):
            raise MalformedError("the package's header names a directory that it does not have")
        path = logged_path(directories[index] + name, merged_usr=merged_usr)
        space.take(path)
        yield HashedFile(path, f"{algorithm}:{_hex(digest, algorithm)}")


def _hex(digest: str, algorithm: str) -> str:
    if not _HEX.fullmatch(digest) or len(digest) != 2 * DIGEST_SIZES[algorithm.encode("ascii")]:
        raise MalformedError(f"the package's header has a digest that is none of {algorithm}")
    return digest.lower()


def _read_header(source: BinaryIO) -> tuple[_Header, int]:
    """Return a header and its size in bytes."""
    start = _read(source, 16)
    if len(start) != 16 or start[:4] != _HEADER_MAGIC:
        raise MalformedError("the package has no header where one should be")
    count, size = struct.unpack_from(">II", start, 8)
    if count > MAX_TAGS or size > MAX_HEADER_BYTES:
        raise TooLargeError("the package's header is larger than RPM allows")
    index, store = _read(source, count * _ENTRY.size), _read(source, size)
    if len(index) != count * _ENTRY.size or len(store) != size:
        raise MalformedError("the package ends within its header")
    entries = {tag: (kind, offset, number) for tag, kind, offset, number in _ENTRY.iter_unpack(index)}
    if any(number > MAX_FILES for kind, _, number in entries.values() if kind in (_INT16, _INT32, _STRINGS)):
        raise TooLargeError(f"a package has at most {MAX_FILES} files")
    return _Header(entries, store), 16 + len(index) + size


def _sha256(source: BinaryIO, start: int, size: int) -> str:
    source.seek(start)
    return hashlib.sha256(_read(source, size)).hexdigest()


def _read(source: BinaryIO, size: int) -> bytes:
    """Return the next ``size`` bytes, or what there is. A file would make room for all of them before it looks."""
    parts = []
    while size and (part := source.read(min(size, BUFFER))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
