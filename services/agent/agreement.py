"""Finds the position of the IMA log that a quoted PCR 10 proves.

PCRs and log are read at different instants, and either may move in between. The kernel writes its log before it extends the
PCR (``ima_queue.c``, ``ima_add_template_entry``), so a log that is read after the quote holds what was quoted. What it holds
beyond is left for the next challenge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from attestream.errors import MalformedError
from attestream.ima.log import IMA_PCR, read_ascii, read_binary
from attestream.ima.replay import Replay
from services.agent.ima_log import ImaLog, Slice

_log = logging.getLogger(__name__)

_REPLAY_LIMIT: Final = 8 << 20
"""Bytes of new entries that are replayed; with more, the kernel's order of writing has to do."""


class _Position(msgspec.Struct, frozen=True):
    """A place in the log that a quote has proven, and PCR 10 there."""

    generation: int
    entries: int
    bank: str
    value: bytes


class Agreement:
    """Reads a log as far as quotes prove it, and remembers how far that was: each entry is replayed once."""

    def __init__(self, log: ImaLog) -> None:
        self._ima = log
        self._proven: _Position | None = None

    def read(self, wanted: int, values: Mapping[str, Mapping[int, bytes]], limit: int) -> tuple[Slice, bool]:
        """Return the entries from index ``wanted`` on and whether the quoted PCR values agree with the log.

        When they do, the entries end where the quote does; they begin at 0 when that is before ``wanted``. Otherwise they
        are all that the log holds. At most ``limit`` bytes are returned. A log that can not be replayed counts as agreeing:
        reading it again would not help.

        :raises OSError: when the log can not be read.
        """
        quoted = _quoted(values)
        if quoted is None:
            return self._ima.read(wanted, limit), True
        try:
            position, whole = self._find(*quoted)
        except MalformedError as error:
            _log.warning("%s can not be replayed (%s); sending it as it is", self._ima.path, error)
            return self._ima.read(wanted, limit), True
        if position is None:
            return self._ima.read(wanted, limit), not whole
        self._proven = position
        part = self._ima.read(wanted if wanted <= position.entries else 0, limit, until=position.entries)
        return part, part.generation == position.generation

    def _find(self, bank: str, value: bytes) -> tuple[_Position | None, bool]:
        """Return where PCR 10 of ``bank`` is ``value``, if anywhere, and whether all of the log was searched."""
        start, self._proven = self._proven, None
        if start is None or start.bank != bank:
            start = _Position(self._ima.generation, 0, bank, b"")
        new = self._ima.read(start.entries, _REPLAY_LIMIT)
        if (new.generation, new.first) != (start.generation, start.entries):
            new = self._ima.read(0, _REPLAY_LIMIT)
            start = _Position(new.generation, 0, bank, b"")
        replay = Replay(bank, start.value, value)
        entries = 0
        reader = read_ascii if self._ima.ascii_form else read_binary
        for entry in reader(new.data, bank):
            if replay.proven is not None:
                break
            entries += 1
            if entry.pcr == IMA_PCR:
                replay.feed(entry.value)
        if replay.proven is None:
            return None, new.complete
        return _Position(new.generation, start.entries + entries, bank, value), True


def _quoted(values: Mapping[str, Mapping[int, bytes]]) -> tuple[str, bytes] | None:
    """Return bank and value of the quoted PCR 10; ``None`` when it was not quoted."""
    for bank in sorted(values, key=lambda name: name != "sha256"):
        if IMA_PCR in values[bank]:
            return bank, values[bank][IMA_PCR]
    return None
