"""The files that keep the newest roster that a process has seen, and which root key counts by now."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from attestream.errors import ConfigError
from schemas.events import Signed

_MAX_ROSTER: Final = 1 << 20
_log = logging.getLogger(__name__)


class RosterFile:
    """The file at ``path``, and ``path``.vouchers beside it; with ``None`` nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> bytes:
        """Return what is kept, nothing when that is nothing.

        :raises ConfigError: it can not be read.
        """
        return _read(self.path) if self.path is not None else b""

    def write(self, data: bytes) -> None:
        """Keep ``data``; that it can not be kept is logged."""
        if self.path is not None:
            _write(self.path, data)

    def vouchers(self) -> list[Signed]:
        """Return the vouchers that are kept: rosters leave them out one day.

        :raises ConfigError: they can not be read.
        """
        data = _read(self._vouchers) if self._vouchers is not None else b""
        try:
            return msgspec.msgpack.decode(data, type=list[Signed]) if data else []
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self._vouchers} holds no vouchers of root keys: {error}") from error

    def keep_vouchers(self, vouchers: Sequence[Signed]) -> None:
        """Keep ``vouchers`` as well; that they can not be kept is logged."""
        if self._vouchers is None:
            return
        try:
            kept = self.vouchers()
        except ConfigError as error:
            _log.warning("%s: they are written anew", error.message)
            kept = []
        _write(self._vouchers, msgspec.msgpack.encode([*kept, *(one for one in vouchers if one not in kept)]))

    @property
    def _vouchers(self) -> Path | None:
        return self.path.with_name(f"{self.path.name}.vouchers") if self.path is not None else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ROSTER + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"the roster {path} can not be read: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        if path.exists() and path.read_bytes() == data:
            return
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        _log.warning("the roster can not be kept in %s: %s", path, error.strerror)
