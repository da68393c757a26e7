"""What a worker does when there is more to attest than it can: it asks less often, evenly, and says so."""

from __future__ import annotations

from typing import Final

from schemas.events import EventKind

START_RATIO: Final = 0.25
"""Lateness in shares of the interval from which a worker counts as overloaded."""
END_RATIO: Final = 0.1
"""And below which it does not any more."""
START_MS: Final = 3_000
"""How long that must last; a takeover or a burst of news is none."""
END_MS: Final = 10_000

FASTEST: Final = 100_000.0
"""Challenges a second that nobody reaches."""
SLOWEST: Final = 5.0
CUT: Final = 0.7
"""What remains of the pace each time that answers have waited too long."""
CUT_MS: Final = 200
"""Least time between two cuts: the first must be able to show."""
RAISE: Final = 1.05
BURST_MS: Final = 50
"""Challenges of so many milliseconds may be issued at once."""


class Pace:
    """How many challenges may be issued a second: fewer while answers wait, so that they wait at the agents' side.

    :param target_ms: how long an answer may wait here before it is looked at.
    """

    def __init__(self, target_ms: float) -> None:
        self.rate = FASTEST
        self.target_ms = target_ms
        self._tokens = 1.0
        self._filled = 0
        self._cut = 0
        self._issued = 0
        self._since = 0

    def allow(self, now: int) -> bool:
        """Return whether one more challenge may be issued now (milliseconds of a monotonic clock), and count it."""
        most = max(1.0, self.rate * BURST_MS / 1000)
        self._tokens = min(most, self._tokens + (now - self._filled) * self.rate / 1000)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._issued += 1
        return True

    def heard(self, now: int, waited_ms: int) -> None:
        """Note that what came ``waited_ms`` ago has been dealt with."""
        if waited_ms <= self.target_ms:
            self.rate = min(FASTEST, self.rate * RAISE + 1)
            return
        if now - self._cut < max(CUT_MS, waited_ms):
            return
        issued = self._issued * 1000 / max(1, now - self._since)
        self.rate = max(SLOWEST, CUT * min(self.rate, issued))
        self._cut = self._since = now
        self._issued = 0


class Overload:
    """Whether challenges are late, for long enough to be worth a word."""

    def __init__(self) -> None:
        self.now = False
        self.worst_ms = 0
        """Largest lateness between the last two calls of :meth:`judge`."""
        self.stretch = 1.0
        """How many times as long as asked for intervals were between the last two calls."""
        self._late = 0
        self._asked = 0
        self._worst = 0
        self._since: int | None = None

    def note(self, late_ms: int, interval_ms: int) -> None:
        """Note that an agent was, or is to be, challenged ``late_ms`` after its time."""
        self._late += late_ms
        self._asked += interval_ms
        self._worst = max(self._worst, late_ms)

    def judge(self, now: int) -> EventKind | None:
        """Return what has begun, if anything has: ``overloaded`` or ``relieved``."""
        ratio = self._late / self._asked if self._asked else 0.0
        self.worst_ms, self.stretch = self._worst, 1 + ratio
        self._late = self._asked = self._worst = 0
        turned = ratio < END_RATIO if self.now else ratio >= START_RATIO
        if not turned:
            self._since = None
            return None
        if self._since is None:
            self._since = now
        if now - self._since < (END_MS if self.now else START_MS):
            return None
        self.now, self._since = not self.now, None
        return EventKind.OVERLOADED if self.now else EventKind.RELIEVED
