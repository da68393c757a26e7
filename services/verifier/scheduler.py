"""When each agent is challenged: a timer wheel with jitter and a cap on the challenges that wait for an answer.

Every agent has one timer. While a challenge is out it stands for the answer's deadline, otherwise for the next challenge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Final

import nats.errors

from attestream.appraisal import freshness
from attestream.appraisal.appraise import needs_boot_log
from attestream.bus.connection import Bus
from attestream.errors import AttestreamError
from attestream.telemetry import CHALLENGES_MISSED, counter
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import encode
from schemas.events import Standing
from services.verifier.attester import Attester
from services.verifier.wheel import TimerWheel

log = logging.getLogger(__name__)

TURN_S: Final = 0.01
"""Time between two turns of the wheel."""

BUSY_MS: Final = 50
"""How long an agent waits whose last evidence is still being written."""

LEASE_MS: Final = 250
"""How long an agent waits whose partition's lease has run out."""

ABSENT_MS: Final = 1_000
"""Pause after the server said that nobody listens under the agent's subject."""

_random: Final = SystemRandom()


def monotonic_ms() -> int:
    """Return milliseconds of a clock that nobody sets."""
    return time.monotonic_ns() // 1_000_000


class Scheduler:
    """Challenges agents.

    ``on_missed`` is called for a challenge without an answer, ``on_rest`` in place of a challenge for an agent that is not
    watched.
    """

    def __init__(
        self, bus: Bus, secret: bytes, clock: Callable[[], int], *, cap: int, timeout_ms: int, reply_prefix: str
    ) -> None:
        self._bus = bus
        self._secret = secret
        self._clock = clock
        self._cap = cap
        self._timeout = timeout_ms
        self._reply_prefix = reply_prefix
        self._wheel: TimerWheel[Attester] = TimerWheel(monotonic_ms())
        self._ready: deque[Attester] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self._count_missed = counter(CHALLENGES_MISSED)
        self.on_missed: Callable[[Attester], Awaitable[None]]
        self.on_rest: Callable[[Attester], Awaitable[None]]

    def start(self, attester: Attester, within_ms: int = 0) -> None:
        """Take ``attester`` in: it is challenged at a random point of the next ``within_ms``, or of its shorter interval."""
        self.later(attester, int(_random.uniform(0, min(attester.interval_ms, within_ms))))

    def later(self, attester: Attester, delay_ms: int) -> None:
        """Let ``attester`` be challenged after ``delay_ms``; replaces its timer and gives up a challenge that is out."""
        self._landed(attester)
        self._wheel.set(attester, monotonic_ms() + delay_ms)

    def soon(self, attester: Attester) -> None:
        """Let ``attester`` be challenged next, or right after the evidence that is awaited or being written."""
        if attester.in_flight or attester.busy:
            attester.again = True
        elif attester.watched and not attester.queued:
            self._wheel.cancel(attester)
            attester.queued = True
            self._ready.appendleft(attester)

    def stop(self, attester: Attester) -> None:
        """Forget ``attester``."""
        self._landed(attester)
        self._wheel.cancel(attester)
        if attester.queued:
            attester.queued = False
            self._ready.remove(attester)

    def answered(self, attester: Attester, pause_ms: int = 0) -> None:
        """The challenge that is out has been answered and dealt with: set the next one, not before ``pause_ms``."""
        if attester.again:
            self.later(attester, pause_ms)
        else:
            elapsed = self._clock() - attester.issued_at
            self.later(attester, max(pause_ms, int(attester.interval_ms * _random.uniform(0.9, 1.0)) - elapsed))
        attester.again = False

    def absent(self, attester: Attester) -> None:
        """Nobody listens under the agent's subject: no need to wait for the deadline."""
        if attester.in_flight and not attester.busy:
            self._landed(attester)
            self._wheel.cancel(attester)
            self._spawn(self._missed(attester))

    def rest(self, attester: Attester) -> None:
        """Have ``on_rest`` called, without waiting for it."""
        self._spawn(self._guarded(self.on_rest, attester))

    async def run(self) -> None:
        """Turn the wheel, for ever."""
        while True:
            for attester in self._wheel.advance(monotonic_ms()):
                self._due(attester)
            while self._ready and self.in_flight < self._cap:
                attester = self._ready.popleft()
                attester.queued = False
                await self._challenge(attester)
            await asyncio.sleep(TURN_S)

    def _due(self, attester: Attester) -> None:
        if attester.busy:
            self._wheel.set(attester, monotonic_ms() + BUSY_MS)
        elif attester.in_flight:
            self._landed(attester)
            self._spawn(self._missed(attester))
        elif attester.watched:
            if not attester.queued:
                attester.queued = True
                self._ready.append(attester)
        elif attester.standing is not Standing.STOPPED:
            self._wheel.set(attester, monotonic_ms() + max(1_000, attester.lease_ms // 4))
            self.rest(attester)

    async def _challenge(self, attester: Attester) -> None:
        if attester.in_flight or not attester.watched:
            return
        if not attester.partition.owned:
            # A lease that is only late will be renewed.
            if attester.partition.is_open:
                self._wheel.set(attester, monotonic_ms() + LEASE_MS)
            return
        now = self._clock()
        attester.seq = max(attester.seq + 1, now)
        attester.issued_at = now
        attester.again = False
        state, policy = attester.state, attester.policy
        challenge = Challenge(
            agent_id=attester.agent_id,
            nonce=freshness.nonce(self._secret, attester.agent_id, attester.seq, now),
            seq=attester.seq,
            issued_at=now,
            deadline=now + self._timeout,
            banks=policy.selection,
            ima_from=state.ima_entries if policy.runtime is not None else None,
            boot_log=needs_boot_log(policy, state),
            known_digest=state.known_digest,
        )
        attester.in_flight = True
        self.in_flight += 1
        self._wheel.set(attester, monotonic_ms() + self._timeout)
        # Whoever knows where one agent answers must not know where another does.
        attester.reply = challenge.nonce[:8].hex()
        reply = f"{self._reply_prefix}.{attester.reply}.{attester.token}"
        try:
            await self._bus.nc.publish(subjects.challenge_of(attester.token), encode(challenge), reply=reply)
        except nats.errors.Error as error:
            # It counts as missed at its deadline, and is issued again.
            log.warning("%s can not be challenged: %s", attester.agent_id, error)

    async def _missed(self, attester: Attester) -> None:
        attester.missed += 1
        self._count_missed.add(1)
        absent = max(ABSENT_MS, self._timeout // 5)
        self.later(attester, 0 if attester.again else min(attester.interval_ms, absent * attester.missed))
        await self._guarded(self.on_missed, attester)

    async def _guarded(self, call: Callable[[Attester], Awaitable[None]], attester: Attester) -> None:
        try:
            await call(attester)
        except AttestreamError as error:
            log.warning("%s: not written, will be tried again: %s", attester.agent_id, error)

    def _landed(self, attester: Attester) -> None:
        if attester.in_flight:
            attester.in_flight = False
            self.in_flight -= 1

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
