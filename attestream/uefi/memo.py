"""Remembers, across a fleet, what events of boot logs say: machines of one kind log the same firmware, keys and commands."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from attestream.uefi.claim_kinds import Claim
from attestream.uefi.frozen import FrozenDict
from attestream.uefi.log import Digest, Event

MAX_EVENT_BYTES: Final = 65_536
"""Events with more data are read each time: dbx, the largest that machines have in common, has some 20,000."""
_OVERHEAD: Final = 200
"""Bytes that an event counts for besides its data."""

Key = tuple[str, int, int, tuple[Digest, ...], bytes]
_Value = TypeVar("_Value")


def key_of(event: Event, bank: str) -> Key:
    """Return what ``event`` is known by: everything but its place in the log."""
    _number, _offset, pcr, kind, digests, data = event
    return bank, pcr, kind, digests, data


class _Generations(Generic[_Value]):
    """Event -> value. When the younger generation has ``limit`` bytes of events, the older one is dropped as a whole."""

    __slots__ = ("_limit", "_old", "_size", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._young: dict[Key, _Value] = {}
        self._old: dict[Key, _Value] = {}

    def get(self, key: Key) -> _Value | None:
        value = self._young.get(key)
        if value is None and self._old and (value := self._old.get(key)) is not None:
            self.add(key, value)
        return value

    def add(self, key: Key, value: _Value) -> None:
        size = len(key[4]) + _OVERHEAD
        if size > MAX_EVENT_BYTES:
            return
        if self._size + size > self._limit:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[key] = value
        self._size += size

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class EventMemo:
    """The memo of a worker. It only saves time: results are the same without it.

    What is remembered follows from the event alone, whatever PCR proves it in which log. So an agent can fill the memo with
    its own events, but it can not put anything wrong there.

    :param limit: bytes of events in one generation. At most four times as many are held, and the dictionary form of an
        event is up to ten times as large as the event.
    """

    __slots__ = ("claims", "described")

    def __init__(self, limit: int = 1 << 20) -> None:
        self.claims: _Generations[Claim] = _Generations(limit)
        """What an event claims, with the number that it had where it was first seen."""
        self.described: _Generations[FrozenDict] = _Generations(limit)
        """The dictionary form of an event without its number; empty for one that was seen only once."""
