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

_Key = tuple[str, int, int, tuple[Digest, ...]]
"""Bank, and everything of an event but its place in the log and its data, which would take long to hash."""


class Known:
    """What an event says, as far as somebody has read it. All of it follows from the event alone."""

    __slots__ = ("claim", "described")

    def __init__(self) -> None:
        self.claim: Claim | None = None
        """What it claims, with the number that it had where it was first read."""
        self.described: FrozenDict | None = None
        """Its dictionary form, with the number that it had there, in a form that can be shared."""


_Entry = tuple[bytes, Known | None]
"""An event's data, and what is known of it: nothing before it was met twice. Much of a log no other machine has."""


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
        self._young: dict[_Key, _Entry] = {}
        self._old: dict[_Key, _Entry] = {}

    def recall(self, events: Iterable[Event], bank: str) -> list[Known | None]:
        """Return what is known of each of ``events`` in ``bank``; None of what is met for the first time.

        Whoever reads an event can add to what is known of it.
        """
        recalled: list[Known | None] = []
        for event in events:
            key, data = (bank, event.pcr, event.kind, event.digests), event.data
            entry = self._young.get(key)
            if entry is None or entry[1] is None or entry[0] != data:
                entry = self._meet(key, data, entry or self._old.get(key))
            recalled.append(entry[1])
        return recalled

    def _meet(self, key: _Key, data: bytes, before: _Entry | None) -> _Entry:
        # An event of the same digests with other data takes the place of the one before.
        entry = (data, (before[1] or Known()) if before and before[0] == data else None)
        size = len(data) + _OVERHEAD
        if size <= MAX_EVENT_BYTES:
            if self._size + size > self._limit:
                self._old, self._young, self._size = self._young, {}, 0
            self._young[key] = entry
            self._size += size
        return entry

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
