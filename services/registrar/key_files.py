"""Keys in files that may be replaced at any time: the newest one counts, without a restart."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Final

from attestream.credentials.nkey import Kind, NKey
from attestream.errors import AttestreamError, ConfigError

MAX_FILE: Final = 16 << 20

_log = logging.getLogger(__name__)


class KeyFile:
    """The seed of an NKey in a file that only its owner may read.

    :raises ConfigError: it can not be read, or holds another kind of key.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self._path = path
        self._kind = kind
        self._mark = self._look()
        self._key = self._read()
        self._said = ""

    def __call__(self) -> NKey:
        """Return the key that the file holds now. While it can not be used, the last one that could goes on; why, is said
        once."""
        try:
            mark = self._look()
            if mark != self._mark:
                key = self._read()
                if key.public != self._key.public:
                    _log.info("%s holds another key now: %s", self._path, key.public)
                self._key, self._mark, self._said = key, mark, ""
        except ConfigError as error:
            if error.message != self._said:
                self._said = error.message
                _log.error("the last key goes on: %s (%s)", error.message, error.hint)
        return self._key

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigError(f"{self._path} can not be read: {error.strerror or error}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _read(self) -> NKey:
        try:
            key = NKey.from_seed(text(self._path, secret=True))
        except AttestreamError as error:
            raise ConfigError(f"{self._path}: {error.message}") from error
        if key.kind is not self._kind:
            raise ConfigError(f"{self._path} does not hold the key of an {self._kind.name.lower()}")
        return key


def text(path: Path, *, secret: bool) -> str:
    """Return what a file of the bus's keys holds.

    :raises ConfigError: it can not be read, or is ``secret`` and others may read it.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            data = file.read(MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror or error}") from error
    if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o})", remedy=f"Run `chmod 600 {path}`.")
    return data.decode("ascii", "replace").strip()
