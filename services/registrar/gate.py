"""Who may ask for enrolment and for renewal how often: a flood is told to come back later, or not heard."""

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

RENEWALS_PER_MIN: Final = 12
"""Renewals that one agent may ask for in a minute, on average; an identity is renewed once in its life."""

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


class RenewalGate:
    """Lets requests for renewal through, at the same rate for each agent.

    Agents are told apart by the subject, which the bus lets nobody else use. What a request says of its sender is not known
    to be true before its signature is verified, and that costs what a flood wants to spend.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = Buckets(60 / RENEWALS_PER_MIN, BURST_PER_SOURCE, clock)

    def __call__(self, subject: str) -> bool:
        """Count a request, and return whether it is to be dealt with."""
        return self._agents.of(subject).take()
