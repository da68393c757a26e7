"""The files of a backup and the manifest that vouches for them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Protocol

import msgspec

from attestream.backup import authenticity
from attestream.errors import ConfigError, MalformedError
from attestream.signing import Signer
from schemas.trust import Roster

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
"""File with the signature of the manifest."""
FORMAT: Final = "attestream-backup/1"
MAX_MANIFEST_BYTES: Final = 4 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\.(stream|rows|keys)\Z", re.ASCII)
_BLOCK: Final = 1 << 20


class Entry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A file of a backup."""

    kind: str
    """``stream``, ``rows`` or ``keys``."""
    name: str
    """Of the stream or of the service whose tables these are; ``installation`` for keys."""
    size: int
    """Bytes."""
    sha256: str
    items: int
    """Messages, rows or files in it."""
    about: dict[str, Any] = {}
    """Of a stream, what the server needs to take it back: its configuration and state."""

    @property
    def file(self) -> str:
        """Its name in the directory."""
        return f"{self.name}.{self.kind}"


class Manifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a backup holds."""

    format: str
    version: str
    """Of Attestream."""
    at: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_000)]
    """Unix time in milliseconds at which it was begun."""
    entries: list[Entry]


class Writer:
    """Writes one file and counts what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append ``data``."""
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        """Of everything so far."""
        return self._digest.hexdigest()


class Appendable(Protocol):
    """Whatever bytes can be appended to."""

    def write(self, data: bytes, /) -> int:
        """Append ``data``."""
        ...


def start(directory: Path) -> None:
    """Make the directory of a new backup.

    :raises ConfigError: it exists and holds something, or can not be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty, and nothing is overwritten", remedy="Choose another directory.")
        directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{directory} can not be made: {error.strerror}") from error


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write a new file of a backup; it is on the disk when the block ends.

    :raises ConfigError: it exists or can not be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield Writer(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path} can not be written: {error.strerror}") from error


def finish(directory: Path, manifest: Manifest, signer: Signer | None) -> None:
    """Write the manifest, by which the backup becomes whole, with the signature of ``signer`` if there is one.

    :raises ConfigError: it can not be written.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    if signer is not None:
        with writing(directory / SIGNATURE) as file:
            file.write(authenticity.sign(data, signer))
    with writing(directory / MANIFEST) as file:
        file.write(data)


def open_backup(directory: Path, roster: Roster | None) -> Manifest:
    """Return the manifest of a backup whose every file is as it was written, by a registrar of ``roster``.

    With ``None`` nobody's signature is looked at: whoever could write there has made it what it is.

    :raises ConfigError: it is no backup, or can not be read.
    :raises SignatureError: no registrar of the roster has signed it.
    :raises MalformedError: a file is missing, or is another than the manifest tells.
    """
    try:
        data = _small(directory / MANIFEST, MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} holds no whole backup: it has no {MANIFEST}",
            remedy="A backup that was interrupted has none; make it anew.",
        ) from error
    manifest = read_manifest(data)
    if roster is not None:
        try:
            signature = _small(directory / SIGNATURE, authenticity.MAX_BYTES)
        except FileNotFoundError:
            raise authenticity.unsigned() from None
        authenticity.check(data, manifest.at, signature, roster)
    for entry in manifest.entries:
        with reading(directory, entry):
            pass
    return manifest


def read_manifest(data: bytes) -> Manifest:
    """Return what the bytes of a manifest say.

    :raises MalformedError: they are none of this format, or name what no backup has.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the manifest of the backup can not be read: {error}") from error
    if manifest.format != FORMAT:
        raise MalformedError(f"the backup's format is {manifest.format[:40]!r}; this version reads {FORMAT}")
    for entry in manifest.entries:
        if not _NAME.match(entry.file):
            raise MalformedError(f"the manifest names a file that no backup has: {entry.file[:80]!r}")
        if entry.kind == "stream" and not all(isinstance(entry.about.get(name), dict) for name in ("config", "state")):
            raise MalformedError(f"the manifest does not tell how to make {entry.name}")
    if len({entry.file for entry in manifest.entries}) != len(manifest.entries):
        raise MalformedError("the manifest names a file twice")
    return manifest


class Part(io.RawIOBase):
    """A file of a backup that is being read, and the digest of what was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer`` and return how many bytes that were."""
        try:
            data = self._file.read(len(buffer))
        except OSError as error:
            raise MalformedError(f"a file of the backup can not be read: {error.strerror}") from error
        buffer[: len(data)] = data
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def blocks(self, size: int = _BLOCK) -> Iterator[bytes]:
        """Yield what is left in blocks of ``size`` bytes."""
        while block := self.read(size):
            yield block

    def is_whole(self, entry: Entry) -> bool:
        """Return whether what was read is the file that ``entry`` tells of."""
        return (self._size, self._digest.hexdigest()) == (entry.size, entry.sha256)


@contextmanager
def reading(directory: Path, entry: Entry) -> Iterator[Part]:
    """Read a file of a backup in the block; what was read counts only if the block ends without an error. It may have become
    another one since it was looked at.

    :raises MalformedError: it can not be read, or is another than ``entry`` tells.
    """
    path = directory / entry.file
    try:
        file = path.open("rb")
    except OSError as error:
        raise MalformedError(f"{path} can not be read: {error.strerror}") from error
    with file:
        part = Part(file)
        yield part
        for _ in part.blocks():
            pass
    if not part.is_whole(entry):
        raise MalformedError(
            f"{path} is not the file that was written into the backup", remedy="Take another copy of the backup."
        )


def blocks(directory: Path, entry: Entry) -> Iterator[bytes]:
    """Yield a file of a backup in blocks; errors are those of :func:`reading`."""
    with reading(directory, entry) as part:
        yield from part.blocks()


def _small(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror}") from error
    if len(data) > most:
        raise MalformedError(f"{path} is larger than {most} bytes")
    return data
