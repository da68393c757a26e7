"""Remembers, across a fleet, what events of boot logs say: machines of one kind log the same firmware, keys and commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attestream.uefi.claim_kinds import Claim
from attestream.uefi.frozen import FrozenDict
from attestream.uefi.log import Digest, Event

MAX_EVENT_BYTES: Final = 65_536
"""Events with more data are read each time: dbx, the largest that machines have in common, has some 20,000."""
_OVERHEAD: Final = 200
"""Bytes that an event counts for besides its data."""

_Key = tuple[str, int, int, tuple[Digest, ...], bytes]
"""Bank, and everything of an event but its place in the log."""


class Known:
    """What an event says, as far as somebody has read it. All of it follows from the event alone."""

    __slots__ = ("claim", "described", "seen")

    def __init__(self) -> None:
        self.claim: Claim | None = None
        """What it claims, with the number that it had where it was first seen."""
        self.described: FrozenDict | None = None
        """Its dictionary form without its number, in a form that can be shared."""
        self.seen = False
        """Whether it was described before. Much of a log no other machine has: only what is seen twice is worth sharing."""


class EventMemo:
    """The memo of a worker. It only saves time: results are the same without it.

    What is remembered follows from the event alone, whatever PCR proves it in which log. So an agent can fill the memo with
    its own events, but it can not put anything wrong there. When the younger generation has ``limit`` bytes of events, the
    older one is dropped as a whole.

    :param limit: bytes of events in one generation. At most twice as many are held, and the dictionary form of an event is
        up to ten times as large as the event.
    """

    __slots__ = ("_limit", "_old", "_size", "_young")

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._size = 0
        self._young: dict[_Key, Known] = {}
        self._old: dict[_Key, Known] = {}

    def recall(self, events: Iterable[Event], bank: str) -> list[Known]:
        """Return what is known of each of ``events`` in ``bank``. Whoever reads one can add to that."""
        known: list[Known] = []
        for _number, _offset, pcr, kind, digests, data in events:
            key = (bank, pcr, kind, digests, data)
            known.append(self._young.get(key) or self._add(key))
        return known

    def _add(self, key: _Key) -> Known:
        known = self._old.get(key) or Known()
        size = len(key[4]) + _OVERHEAD
        if size <= MAX_EVENT_BYTES:
            if self._size + size > self._limit:
                self._old, self._young, self._size = self._young, {}, 0
            self._young[key] = known
            self._size += size
        return known

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
