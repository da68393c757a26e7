"""The files of a backup and the manifest that vouches for them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from attestream.errors import ConfigError, MalformedError

MANIFEST: Final = "manifest.json"
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
    at: int
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


def finish(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, by which the backup becomes whole.

    :raises ConfigError: it can not be written.
    """
    with writing(directory / MANIFEST) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


def open_backup(directory: Path) -> Manifest:
    """Return the manifest of a backup whose every file is as it was written.

    :raises ConfigError: it is no backup, or can not be read.
    :raises MalformedError: a file is missing, or is another than the manifest tells.
    """
    try:
        with (directory / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise MalformedError(f"the manifest of {directory} is larger than {MAX_MANIFEST_BYTES} bytes")
        manifest = msgspec.json.decode(data, type=Manifest)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} holds no whole backup: it has no {MANIFEST}",
            remedy="A backup that was interrupted has none; make it anew.",
        ) from error
    except OSError as error:
        raise ConfigError(f"{directory} can not be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedError(f"the manifest of {directory} can not be read: {error}") from error
    if manifest.format != FORMAT:
        raise MalformedError(f"the backup's format is {manifest.format[:40]!r}; this version reads {FORMAT}")
    for entry in manifest.entries:
        _check(directory, entry)
    return manifest


def blocks(path: Path, size: int = _BLOCK) -> Iterator[bytes]:
    """Yield a file in blocks of ``size`` bytes."""
    with path.open("rb") as file:
        while block := file.read(size):
            yield block


def _check(directory: Path, entry: Entry) -> None:
    if not _NAME.match(entry.file):
        raise MalformedError(f"the manifest names a file that no backup has: {entry.file[:80]!r}")
    path = directory / entry.file
    digest, size = hashlib.sha256(), 0
    try:
        for block in blocks(path):
            digest.update(block)
            size += len(block)
    except OSError as error:
        raise MalformedError(f"{path} can not be read: {error.strerror}") from error
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise MalformedError(
            f"{path} is not the file that was written into the backup", remedy="Take another copy of the backup."
        )
