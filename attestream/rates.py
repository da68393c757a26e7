"""Bounds on how often something may happen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_KEYS: Final = 10_000
"""Callers that are told apart at a time; those who have been quiet longest are forgotten, with a full bucket."""


class TokenBucket:
    """Lets ``burst`` things through at once and one more each ``interval_s``. Times are in seconds of any steady clock."""

    __slots__ = ("_at", "_burst", "_clock", "_interval_s", "_tokens")

    def __init__(self, interval_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take(self, *, leave: float = 0) -> bool:
        """Take a token, if ``leave`` are left then; return whether there was one to take."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._interval_s)
        self._at = now
        if self._tokens < 1 + leave:
            return False
        self._tokens -= 1
        return True

    @property
    def wait_s(self) -> float:
        """Seconds until there is a token."""
        return max(0.0, 1 - self._tokens) * self._interval_s


class Buckets:
    """A bucket for each of those who ask, made when they first do."""

    def __init__(self, interval_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, key: str) -> TokenBucket:
        """Return the bucket of ``key``."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._interval_s, self._burst, self._clock)
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
