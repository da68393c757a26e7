"""Reads the headers of RPM packages and the metadata of their repositories.

Source: the RPM reference manual, "RPM V4 Package format" and "Header format". A header has the digest of every file, so that
the payload need not be read. Signatures of packages are not looked at: take packages from a repository that you trust.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final, NamedTuple
from xml.etree import ElementTree as ET

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.reference.collected import HashedFile
from attestream.reference.paths import logged_path

MAX_HEADER_BYTES: Final = 256 << 20
MAX_TAGS: Final = 65_536
MAX_FILES: Final = 1_000_000
MAX_METADATA_BYTES: Final = 512 << 20

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
_REPO: Final = "{http://linux.duke.edu/metadata/repo}"
_COMMON: Final = "{http://linux.duke.edu/metadata/common}"


class _Header(NamedTuple):
    entries: Mapping[int, tuple[int, int, int]]
    """Tag -> type, offset, count."""
    store: bytes

    def numbers(self, tag: int) -> list[int]:
        if tag not in self.entries:
            return []
        kind, offset, count = self.entries[tag]
        form = {_INT16: "H", _INT32: "I"}.get(kind)
        if form is None or offset + count * struct.calcsize(form) > len(self.store):
            raise MalformedError(f"tag {tag} of the package's header is damaged")
        return list(struct.unpack_from(f">{count}{form}", self.store, offset))

    def texts(self, tag: int) -> list[str]:
        if tag not in self.entries:
            return []
        kind, offset, count = self.entries[tag]
        if kind not in (_STRING, _STRINGS) or offset > len(self.store):
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
    if source.read(_LEAD)[:4] != _LEAD_MAGIC:
        raise MalformedError("this is not an RPM package")
    signature, size = _read_header(source)
    source.read(-size % 8)
    start = source.tell()
    header, size = _read_header(source)
    if (wanted := signature.texts(_SHA256_OF_HEADER)) and wanted[0] != _sha256(source, start, size):
        raise MalformedError("the package's header is not what its digest says: it is damaged")
    yield from _files(header, merged_usr)


def _files(header: _Header, merged_usr: bool) -> Iterator[HashedFile]:
    names, directories, indexes = header.texts(_BASENAMES), header.texts(_DIRNAMES), header.numbers(_INDEXES)
    digests, modes = header.texts(_DIGESTS), header.numbers(_MODES)
    flags = header.numbers(_FLAGS) or [0] * len(names)
    if not len(names) == len(indexes) == len(digests) == len(modes) == len(flags) or len(names) > MAX_FILES:
        raise MalformedError("the package's header tells of some of its files only")
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
        yield HashedFile(logged_path(directories[index] + name, merged_usr=merged_usr), f"{algorithm}:{_hex(digest)}")


def _hex(digest: str) -> str:
    try:
        return bytes.fromhex(digest).hex()
    except ValueError as error:
        raise MalformedError("the package's header has a digest that is not hexadecimal") from error


def _read_header(source: BinaryIO) -> tuple[_Header, int]:
    """Return a header and its size in bytes."""
    start = source.read(16)
    if len(start) != 16 or start[:4] != _HEADER_MAGIC:
        raise MalformedError("the package has no header where one should be")
    count, size = struct.unpack_from(">II", start, 8)
    if count > MAX_TAGS or size > MAX_HEADER_BYTES:
        raise TooLargeError("the package's header is larger than RPM allows")
    index, store = source.read(count * _ENTRY.size), source.read(size)
    if len(index) != count * _ENTRY.size or len(store) != size:
        raise MalformedError("the package ends within its header")
    entries = {tag: (kind, offset, number) for tag, kind, offset, number in _ENTRY.iter_unpack(index)}
    if any(number > MAX_FILES for kind, _, number in entries.values() if kind in (_INT16, _INT32, _STRINGS)):
        raise TooLargeError(f"a package has at most {MAX_FILES} files")
    return _Header(entries, store), 16 + len(index) + size


def _sha256(source: BinaryIO, start: int, size: int) -> str:
    source.seek(start)
    return hashlib.sha256(source.read(size)).hexdigest()


def read_repomd(data: bytes) -> tuple[str, str, str]:
    """Return where a repository's list of packages is: its place from the root, and algorithm and hex of its digest.

    :raises MalformedError: when ``data`` is not a ``repomd.xml`` that names one.
    """
    for entry in _xml(data).iter(f"{_REPO}data"):
        place, checksum = entry.find(f"{_REPO}location"), entry.find(f"{_REPO}checksum")
        if entry.get("type") == "primary" and place is not None and checksum is not None:
            return place.get("href", ""), checksum.get("type", ""), (checksum.text or "").strip().lower()
    raise MalformedError("the repository's repomd.xml names no list of packages")


def read_primary(data: bytes) -> dict[str, tuple[str, str]]:
    """Return the packages of a repository: place from the root -> algorithm and hex of the package's digest.

    :raises MalformedError: when ``data`` is not a list of packages.
    """
    found: dict[str, tuple[str, str]] = {}
    for package in _xml(data).iter(f"{_COMMON}package"):
        place, checksum = package.find(f"{_COMMON}location"), package.find(f"{_COMMON}checksum")
        if place is None or checksum is None:
            raise MalformedError("the repository lists a package without place or digest")
        found[place.get("href", "")] = (checksum.get("type", ""), (checksum.text or "").strip().lower())
    return found


def _xml(data: bytes) -> ET.Element:
    if len(data) > MAX_METADATA_BYTES:
        raise TooLargeError(f"a repository's metadata has at most {MAX_METADATA_BYTES} bytes")
    # Without a document type there are no entities: nothing can expand.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\x00" in data:
        raise MalformedError("the repository's metadata declares a document type")
    try:
        return ET.fromstring(data)  # noqa: S314  # no entities, see above
    except ET.ParseError as error:
        raise MalformedError(f"the repository's metadata is not XML: {error}") from error
