"""Follows the kernel's IMA log by entry index.

Records are parsed only far enough to find where they end. Positions are remembered, so that each look reads what is new and
an entry can be found again by its index. A log that was begun anew (another boot, or an emulator's) is noticed, also when it
has outgrown the old one: the last known record must still be where it was.
"""

from __future__ import annotations

import bisect
import logging
import os
import threading
from array import array
from pathlib import Path
from typing import Final

import msgspec

_log = logging.getLogger(__name__)

MAX_RECORD: Final = (1 << 20) + 4096
"""Bytes of one entry: the kernel's template data are far smaller."""

_CHUNK: Final = 1 << 20
_MAX_NAME: Final = 128
_DIGEST: Final = 20
_MAX_REMAINDER: Final = 65_536


class Slice(msgspec.Struct, frozen=True):
    """Consecutive entries."""

    first: int
    count: int
    data: bytes
    generation: int
    """Of the log that they are from; raised each time it begins anew."""
    complete: bool
    """Whether no entry follows."""
    cut: bool
    """Whether the limit of bytes has left out entries that were asked for."""


class ImaLog:
    """The log at ``path``, in the kernel's binary form or, with ``ascii_form``, as lines.

    Thread-safe. A log that does not exist (yet) is an empty one. What follows the last entry whose end can be found is
    handed out with it, bounded, when it can not become an entry any more: that is for the verifier to judge.
    """

    def __init__(self, path: Path, *, ascii_form: bool = False) -> None:
        self.path = path
        self.ascii_form = ascii_form
        self._lock = threading.Lock()
        self._ends = array("Q")
        self._last = b""
        self._seen: tuple[int, ...] = ()
        self._generation = 0
        self._remainder = b""

    def refresh(self) -> int:
        """Look for new entries and return how many there are. Blocks for the time that reading them takes.

        :raises OSError: when the log exists and can not be read.
        """
        with self._lock:
            return self._refresh()

    @property
    def generation(self) -> int:
        """Raised each time the log begins anew."""
        return self._generation

    def read(self, first: int, limit: int, *, until: int | None = None) -> Slice:
        """Return the entries from index ``first`` up to ``until`` (exclusive), as many as fit into ``limit`` bytes.

        They begin at index 0 when the log has fewer than ``first`` entries: it is then another log than the caller knows.

        :raises OSError: when the log can not be read.
        """
        with self._lock:
            known = self._refresh()
            first = first if first <= known else 0
            start = self._end(first)
            wanted = max(0, (known if until is None else min(known, until)) - first)
            count = min(wanted, bisect.bisect_right(self._ends, start + limit, first) - first)
            data = self._pread(start, self._end(first + count) - start) if count else b""
            if first + count == known and until is None:
                data += self._remainder
            return Slice(
                first=first,
                count=count,
                data=data,
                generation=self._generation,
                complete=first + count == known,
                cut=count < wanted,
            )

    def _refresh(self) -> int:
        try:
            with self.path.open("rb", buffering=0) as file:
                mark = _mark(file.fileno(), self.path)
                if mark and mark == self._seen:
                    return len(self._ends)
                self._follow(file.fileno())
                self._seen = mark
        except FileNotFoundError:
            if self._ends:
                self._restart()
        return len(self._ends)

    def _follow(self, descriptor: int) -> None:
        start = self._end(len(self._ends)) - len(self._last)
        data = _read(descriptor, start, len(self._last) + _CHUNK)
        if self._last and not data.startswith(self._last):
            self._restart()
            start, data = 0, _read(descriptor, 0, _CHUNK)
        data = data[len(self._last) :]
        at = self._end(len(self._ends))
        while data:
            found = self._take(data, at)
            at = self._end(len(self._ends))
            # A record that is larger than a chunk needs a larger look; one that never ends is the remainder.
            more = _read(descriptor, at, _CHUNK if found else MAX_RECORD)
            if not found and len(more) <= len(data):
                break
            data = more
        self._remainder = data[:_MAX_REMAINDER] if data and _broken(data, ascii_form=self.ascii_form) else b""
        if self._remainder:
            _log.warning("entry %d of %s can not be told from what follows it", len(self._ends), self.path)

    def _take(self, data: bytes, at: int) -> int:
        """Remember the whole records in ``data``, which begins at byte ``at`` of the log; return how many they are."""
        offset = last = count = 0
        while size := _record_size(data, offset, ascii_form=self.ascii_form):
            last, offset = offset, offset + size
            self._ends.append(at + offset)
            count += 1
        if count:
            self._last = data[last:offset]
        return count

    def _restart(self) -> None:
        _log.info("the IMA log %s has begun anew", self.path)
        self._generation += 1
        self._ends = array("Q")
        self._last = self._remainder = b""
        self._seen = ()

    def _end(self, count: int) -> int:
        """Return where the first ``count`` entries end."""
        return self._ends[count - 1] if count else 0

    def _pread(self, start: int, size: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            return _read(file.fileno(), start, size)


def _mark(descriptor: int, path: Path) -> tuple[int, ...]:
    """Return something that changes with the log, cheaper than reading it; empty when there is no such thing.

    Files of securityfs have neither size nor time, but a counter stands beside them.
    """
    status = os.fstat(descriptor)
    if status.st_size:
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    try:
        return (status.st_ino, int((path.parent / "runtime_measurements_count").read_bytes()))
    except (OSError, ValueError):
        return ()


def _read(descriptor: int, start: int, size: int) -> bytes:
    """Read until ``size`` bytes are there or the file ends: securityfs hands out a page or less at a time."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, start)):
        parts.append(part)
        start += len(part)
        size -= len(part)
    return b"".join(parts)


def _record_size(data: bytes, offset: int, *, ascii_form: bool) -> int:
    """Return the size of the record at ``offset``; 0 when its end is not in ``data`` or can not be found.

    Source: kernel, ``security/integrity/ima/ima_fs.c``, ``ima_measurements_show``. The digest of the record is always SHA-1.
    """
    if ascii_form:
        end = data.find(b"\n", offset, offset + MAX_RECORD) + 1
        return end - offset if end else 0
    at = offset + 4 + _DIGEST
    name_size = int.from_bytes(data[at : at + 4], "little")
    at += 4 + name_size
    if name_size > _MAX_NAME or at > len(data):
        return 0
    if data[at - name_size : at] == b"ima":
        at += _DIGEST  # the oldest template has no length of its data: a bare digest, then the file's name
    end = at + 4 + int.from_bytes(data[at : at + 4], "little")
    return end - offset if at + 4 <= len(data) and end - offset <= MAX_RECORD and end <= len(data) else 0


def _broken(data: bytes, *, ascii_form: bool) -> bool:
    """Whether the record that ``data`` begins with can never end, rather than being cut by a writer at work."""
    if ascii_form or len(data) >= MAX_RECORD:
        return len(data) >= MAX_RECORD
    at = 4 + _DIGEST
    name_size = int.from_bytes(data[at : at + 4], "little")
    at += 4 + name_size
    if name_size > _MAX_NAME:
        return True
    return at + 4 <= len(data) and int.from_bytes(data[at : at + 4], "little") > MAX_RECORD
