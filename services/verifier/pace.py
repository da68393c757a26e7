"""How fast agents that were taken over are challenged: the sooner the better, but not all at once."""

from __future__ import annotations

from typing import Final

RESTART_MS: Final = 100
"""Time in which the agents of a small partition are challenged."""
RESTARTS_PER_MS: Final = 4
"""Agents for each of which so much less than a millisecond is added."""


class Pace:
    """Spreads the first challenges of one worker's agents, whose partitions come in one after another."""

    def __init__(self) -> None:
        self._until = 0

    def within(self, agents: int, now: int) -> int:
        """Return in how many milliseconds from ``now``, by any clock, ``agents`` more agents are to be challenged."""
        self._until = max(self._until, now) + agents // RESTARTS_PER_MS
        return RESTART_MS + self._until - now
