"""Where a subscriber is in a stream, kept in a file: for those who have no consumer on the bus that keeps it for them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attestream.errors import ConfigError

_LIMIT: Final = 64


def default_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where places are kept unless somebody says otherwise: below ``XDG_STATE_HOME``."""
    state = environment.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "attestream" / "places"


class Place:
    """A place under a name; one process has it at a time. Written so that a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        """Take the place.

        :raises ConfigError: another process has it, or the file can not be used.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the place {path} can not be kept: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.sequence: int | None = self._read()
            """Last sequence that has been dealt with, with all before it; ``None``: nothing was read under this name yet."""
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigError(
                f"another process has the place {path}", remedy="Stop it, or subscribe under another name."
            ) from error
        except BaseException:
            os.close(self._lock)
            raise

    def move(self, sequence: int) -> None:
        """Remember ``sequence``.

        :raises ConfigError: the file can not be written.
        """
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            with beside.open("w", encoding="ascii") as file:
                file.write(f"{sequence}\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            raise ConfigError(f"the place {self._path} can not be kept: {error.strerror}") from error
        self.sequence = sequence

    def close(self) -> None:
        """Leave the place to others."""
        os.close(self._lock)

    def _read(self) -> int | None:
        try:
            with self._path.open("rb") as file:
                text = file.read(_LIMIT).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"the place {self._path} can not be read: {error.strerror}") from error
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f"{self._path} holds no place in a stream", remedy="Remove the file to begin anew.")
        return int(text)
