"""Who may ask for enrolment how often: a flood is told to come back later."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

from attestream.config import LimitsConfig
from attestream.errors import BusyError
from attestream.rates import Buckets, TokenBucket

BURST_PER_SOURCE: Final = 20
"""Requests of one agent that are let through at once after a quiet time, or those of a minute if these are more."""

BURST_S: Final = 2
"""Seconds of the whole rate that are let through at once after a quiet time."""


class Gate:
    """Lets enrolment requests through at the rates of ``limits``. ``clock`` is steady, in seconds."""

    def __init__(self, limits: LimitsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        everybody, per_minute = limits.enrolments_per_s, limits.enrolments_per_agent_min
        self._all = TokenBucket(1 / everybody, max(1, int(BURST_S * everybody)), clock)
        self._sources = Buckets(60 / per_minute, max(BURST_PER_SOURCE, int(per_minute)), clock)

    def enter(self, agent_id: str, ek_public: bytes) -> None:
        """Count a request.

        An agent is told apart by its endorsement key too: nobody can use up what another agent may ask for by its name.

        :raises BusyError: when there were too many.
        """
        source = self._sources.of(hashlib.sha256(agent_id.encode("utf-8", "replace") + b"\0" + ek_public).hexdigest())
        if not source.take():
            raise BusyError("this agent asks for enrolment too often", retry_after_s=source.wait_s)
        if not self._all.take():
            raise BusyError("too many agents ask for enrolment", retry_after_s=self._all.wait_s)
