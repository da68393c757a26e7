"""The cluster secret, which may be replaced at any time: the newest one asks, and what it has followed may be answered."""

from __future__ import annotations

import asyncio
import logging
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attestream.errors import ConfigError

MIN_BYTES: Final = 32
GRACE_MS: Final = 60_000
"""Milliseconds after a change in which other workers may still ask under the secret before: they have not looked yet."""

_LOOK_S: Final = 1.0
_log = logging.getLogger(__name__)


class ClusterSecret:
    """A secret that stays, and the one that it has followed: it counts for challenges issued until ``until`` (Unix ms)."""

    def __init__(self, current: bytes, before: bytes = b"", until: int = 0) -> None:
        self.current = current
        """What nonces are made from."""
        self._before = before
        self._until = until

    def of(self, issued_at: int) -> Iterator[bytes]:
        """Yield what the nonce of a challenge may be made from that was issued then (Unix ms), the likeliest first."""
        tried = self.current
        yield tried
        self._look()
        if self.current != tried:
            yield self.current
        if self._before and issued_at <= self._until:
            yield self._before

    def _look(self) -> None:
        """See whether there is another secret by now."""


class SecretFile(ClusterSecret):
    """The secret in a file that only its owner may read, and the one before in a file beside it.

    :raises ConfigError: it can not be read, may be read by others, or is too short.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._looked = monotonic()
        self._mark = _mark(path)
        self._complaint = ""
        super().__init__(*_read(path))

    async def follow(self) -> None:
        """Look every second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look()

    def _look(self) -> None:
        if self._monotonic() - self._looked < _LOOK_S:
            return
        self._looked = self._monotonic()
        try:
            mark = _mark(self._path)
            if mark == self._mark:
                return
            self.current, self._before, self._until = _read(self._path)
        except ConfigError as error:
            # Looked at again: whoever sets this right may change nothing but a mode, or the other file.
            if error.message != self._complaint:
                _log.error("the last cluster secret goes on: %s (%s)", error.message, error.hint)
            self._complaint = error.message
        else:
            self._mark, self._complaint = mark, ""
            _log.info("nonces are made from another cluster secret now")


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(
            f"the cluster secret {path} can not be read: {error.strerror}", remedy="Make it with `attestream init`."
        ) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> tuple[bytes, bytes, int]:
    """Return the secret, the one before, and until when challenges under that one may have been issued (Unix ms)."""
    before = path.with_name(f"{path.name}.before")
    since = _mark(path)[1] // 1_000_000
    return _secret(path), _secret(before) if before.exists() else b"", since + GRACE_MS


def _secret(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the cluster secret {path} can not be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        # Who knows it can answer challenges that were never issued.
        raise ConfigError(
            f"the cluster secret {path} may be read by others (mode {stat.S_IMODE(mode):04o})",
            remedy=f"Run `chmod 600 {path}`.",
        )
    if len(secret) < MIN_BYTES:
        raise ConfigError(f"the cluster secret {path} has fewer than {MIN_BYTES} bytes")
    return secret
