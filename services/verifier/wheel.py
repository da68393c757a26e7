"""A timer wheel: tens of thousands of timers at constant cost.

Each holder has at most one timer. Setting it again forgets the old one; nothing is searched or sorted.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """What a wheel can hold: it remembers its own slot, so that stale entries are recognised."""

    slot: int


T = TypeVar("T", bound=Timed)

IDLE = -1
"""The slot of a holder without a timer."""


class TimerWheel(Generic[T]):
    """Timers with a resolution of ``resolution_ms``. Times are milliseconds of any monotonic clock."""

    def __init__(self, now: int, resolution_ms: int = 10) -> None:
        self._resolution = resolution_ms
        self._slots: dict[int, list[T]] = {}
        self._next = now // resolution_ms

    def set(self, holder: T, due: int) -> None:
        """Let ``holder`` be due at ``due``, or at the next turn when that is past."""
        slot = max(-(-due // self._resolution), self._next)
        holder.slot = slot
        self._slots.setdefault(slot, []).append(holder)

    @staticmethod
    def cancel(holder: T) -> None:
        """Forget the timer of ``holder``."""
        holder.slot = IDLE

    def advance(self, now: int) -> list[T]:
        """Return those that are due at ``now``, without a timer from then on."""
        last = now // self._resolution
        due: list[T] = []
        for slot in range(self._next, last + 1):
            for holder in self._slots.pop(slot, ()):
                if holder.slot == slot:
                    holder.slot = IDLE
                    due.append(holder)
        self._next = max(self._next, last + 1)
        return due
