"""The file that keeps the newest roster that a process has seen."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from attestream.errors import ConfigError

_MAX_ROSTER: Final = 1 << 20
_log = logging.getLogger(__name__)


class RosterFile:
    """The file at ``path``; with ``None`` nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> bytes:
        """Return what is kept, nothing when that is nothing.

        :raises ConfigError: it can not be read.
        """
        if self.path is None:
            return b""
        try:
            with self.path.open("rb") as file:
                return file.read(_MAX_ROSTER + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ConfigError(f"the roster {self.path} can not be read: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Keep ``data``; that it can not be kept is logged."""
        if self.path is None:
            return
        try:
            if self.path.exists() and self.path.read_bytes() == data:
                return
            beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            beside.write_bytes(data)
            beside.replace(self.path)
        except OSError as error:
            _log.warning("the roster can not be kept in %s: %s", self.path, error.strerror)
