"""When each agent is challenged: a timer wheel with jitter and a cap on the challenges that wait for an answer.

Every agent has one timer. While a challenge is out it stands for the answer's deadline, otherwise for the next challenge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
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
from services.verifier.cluster_secret import ClusterSecret
from services.verifier.overload import Overload, Pace
from services.verifier.wheel import TimerWheel

log = logging.getLogger(__name__)

TURN_S: Final = 0.02
"""Time between two turns of the wheel."""

BUSY_MS: Final = 50
"""How long an agent waits whose last evidence is still being written."""

LEASE_MS: Final = 250
"""How long an agent waits whose partition's lease has run out."""

ABSENT_MS: Final = 1_000
"""Pause after the server said that nobody listens under the agent's subject."""

RETURN_MS: Final = 60_000
"""Time after a return of the bus in which no challenge without an answer is held against an agent: a large fleet comes
back one by one. Results lapse all the same."""

RETURN_PAUSE: Final = 5
"""Pauses of an absent agent that one waits meanwhile."""

TICK: Final = "tick"
"""Token in place of an agent's secret one in what the worker sends to itself."""

TICK_MS: Final = 100
"""Time between two of those."""

TARGET_SHARE: Final = 8
"""Answers may wait here for the challenges' time divided by this before fewer are asked for."""

POSTPONED: Final = 3
"""Deadlines after which a challenge counts as missed although news of its partition still wait."""

STARTS_MS: Final = 4
"""Time between two agents that start over at the same time, while their intervals have room for that."""

_random: Final = Random()  # noqa: S311  # jitter, not a secret: who guesses when an agent is asked can not answer earlier


def monotonic_ms() -> int:
    """Return milliseconds of a clock that nobody sets."""
    return time.monotonic_ns() // 1_000_000


class Scheduler:
    """Challenges agents.

    ``on_missed`` is called for a challenge without an answer, ``on_rest`` in place of a challenge for an agent that is not
    watched.

    The worker also sends ticks to itself, by the way that answers take. What came before a tick has been dealt with once
    that is back: only then can a challenge be called unanswered, and its way shows how long answers wait here.
    """

    def __init__(
        self, bus: Bus, secret: ClusterSecret, clock: Callable[[], int], *, cap: int, timeout_ms: int, reply_prefix: str
    ) -> None:
        self._bus = bus
        self._secret = secret
        self._clock = clock
        self._cap = cap
        self._timeout = timeout_ms
        self._reply_prefix = reply_prefix
        self._wheel: TimerWheel[Attester] = TimerWheel(monotonic_ms())
        self._ready: deque[Attester] = deque()
        self._urgent: deque[Attester] = deque()
        """Those with news. They take turns with the others: neither side can starve the other."""
        self._turn = False
        self._turned = monotonic_ms()
        self._heard = monotonic_ms()
        """Everything that had come by then has been dealt with."""
        self._ticked = 0
        self._patient_until = 0
        self._starts = 0
        self.pace = Pace(timeout_ms / TARGET_SHARE)
        self.overload = Overload()
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
            self._queue(attester, self._urgent, monotonic_ms())

    def start_over(self, attester: Attester) -> None:
        """Let ``attester`` be challenged now, or a little later when many start over: at the latest in its interval."""
        now = monotonic_ms()
        self._starts = max(self._starts + STARTS_MS, now)
        delay = self._starts - now
        if delay >= attester.interval_ms:
            delay = int(_random.uniform(0, attester.interval_ms))
        self.later(attester, delay)

    @property
    def waiting(self) -> int:
        """Agents whose time has come and who are still to be challenged."""
        return len(self._ready) + len(self._urgent)

    def heard(self, sent: int) -> None:
        """A tick that was sent at ``sent`` is back."""
        now = monotonic_ms()
        if self._heard < sent <= now:
            self._heard = sent
            self.pace.heard(now, now - sent)

    def returned(self) -> None:
        """The bus was away, and the agents with it: be patient with them."""
        self._patient_until = monotonic_ms() + RETURN_MS

    def keep_waiting(self) -> None:
        """See to it that nobody's result lapses because the worker is late, and note how late it is."""
        now = monotonic_ms()
        for line in (self._ready, self._urgent):
            for attester in line:
                late = max(0, now - attester.due_at)
                self.overload.note(late, attester.interval_ms)
                remaining = attester.result_expires_at - self._clock()
                if attester.standing is Standing.TRUSTED and 0 < remaining < attester.lease_ms // 2 and not attester.busy:
                    attester.late_ms = late
                    self.rest(attester)

    def stop(self, attester: Attester) -> None:
        """Forget ``attester``."""
        self._landed(attester)
        self._wheel.cancel(attester)
        if attester.queued:
            attester.queued = False
            (self._urgent if attester in self._urgent else self._ready).remove(attester)

    def answered(self, attester: Attester, pause_ms: int = 0) -> None:
        """The challenge that is out has been answered and dealt with: set the next one, not before ``pause_ms``."""
        if attester.again:
            self.later(attester, pause_ms)
        else:
            elapsed = self._clock() - attester.issued_at
            self._landed(attester, answered=True)
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
            now = monotonic_ms()
            for attester in self._wheel.advance(now):
                self._due(attester)
            self._turned = now
            await self._tick(now)
            await self._challenge_all()
            await asyncio.sleep(TURN_S)

    def _may_challenge(self, now: int) -> bool:
        # While a tick is overdue so are answers: more of them would only wait longer.
        overdue = now - self._heard > TICK_MS + 2 * self.pace.target_ms
        return not overdue and self.in_flight < self._cap and self.pace.allow(now)

    async def _tick(self, now: int) -> None:
        if now - self._ticked < TICK_MS:
            return
        self._ticked = now
        try:
            await self._bus.nc.publish(f"{self._reply_prefix}.{TICK}.{now}", b"")
        except nats.errors.Error as error:
            log.debug("no tick: %s", error)

    def _next(self) -> Attester:
        self._turn = not self._turn
        first, second = (self._urgent, self._ready) if self._turn else (self._ready, self._urgent)
        attester = (first or second).popleft()
        attester.queued = False
        return attester

    def _queue(self, attester: Attester, line: deque[Attester], due: int) -> None:
        attester.queued = True
        attester.due_at = due
        line.append(attester)

    def _due(self, attester: Attester) -> None:
        if attester.busy:
            self._wheel.set(attester, monotonic_ms() + BUSY_MS)
        elif attester.in_flight:
            if self._may_have_answered(attester):
                self._wheel.set(attester, monotonic_ms() + BUSY_MS)
                return
            self._landed(attester)
            self._spawn(self._missed(attester))
        elif attester.watched:
            if not attester.queued:
                # It was due at some time since the last turn.
                self._queue(attester, self._ready, self._turned)
        elif attester.standing is not Standing.STOPPED:
            self._wheel.set(attester, monotonic_ms() + max(1_000, attester.lease_ms // 4))
            self.rest(attester)

    def _may_have_answered(self, attester: Attester) -> bool:
        """Return whether the answer to a challenge whose time is over may lie here, unread."""
        if self._heard < attester.due_at:
            return True
        return attester.partition.behind and monotonic_ms() < attester.due_at + POSTPONED * self._timeout

    async def _challenge_all(self) -> None:
        """Challenge as many of those that wait as may be challenged now, by one write."""
        challenges = []
        while self.waiting and self._may_challenge(monotonic_ms()):
            challenge = self._challenge(self._next())
            if challenge is not None:
                challenges.append(challenge)
        if not challenges:
            return
        try:
            await self._bus.nc.publish_all(challenges)
        except nats.errors.Error as error:
            # They count as missed at their deadline, and are issued again.
            log.warning("%d agents can not be challenged: %s", len(challenges), error)

    def _challenge(self, attester: Attester) -> tuple[str, str, bytes] | None:
        """Return the next challenge of ``attester``: where it goes, where the answer is awaited, and what it says."""
        if attester.in_flight or not attester.watched:
            return None
        if not attester.partition.owned:
            # A lease that is only late will be renewed.
            if attester.partition.is_open:
                self._wheel.set(attester, monotonic_ms() + LEASE_MS)
            return None
        issued = monotonic_ms()
        attester.late_ms = max(0, issued - attester.due_at)
        attester.due_at = issued + self._timeout
        self.overload.note(attester.late_ms, attester.interval_ms)
        now = self._clock()
        attester.seq = max(attester.seq + 1, now)
        attester.issued_at = now
        attester.again = False
        state, policy = attester.state, attester.policy
        challenge = Challenge(
            agent_id=attester.agent_id,
            nonce=freshness.nonce(self._secret.current, attester.agent_id, attester.seq, now),
            seq=attester.seq,
            issued_at=now,
            deadline=now + self._timeout,
            banks=policy.selection,
            ima_from=state.ima_entries if policy.runtime is not None else None,
            boot_log=needs_boot_log(policy, state),
            known_digest=state.known_digest,
        )
        if challenge.boot_log:
            attester.boot_asked = challenge.seq
        attester.in_flight = True
        self.in_flight += 1
        self._wheel.set(attester, attester.due_at)
        attester.nonce = challenge.nonce
        attester.reply = attester.reply or challenge.nonce[:8].hex()
        reply = f"{self._reply_prefix}.{attester.reply}.{attester.token}"
        return subjects.challenge_of(attester.token), reply, encode(challenge)

    async def _missed(self, attester: Attester) -> None:
        self._count_missed.add(1)
        pause = max(ABSENT_MS, self._timeout // 5)
        if monotonic_ms() < self._patient_until:
            pause *= RETURN_PAUSE
        else:
            attester.missed += 1
            pause *= attester.missed
        self.later(attester, 0 if attester.again else min(attester.interval_ms, pause))
        await self._guarded(self.on_missed, attester)

    async def _guarded(self, call: Callable[[Attester], Awaitable[None]], attester: Attester) -> None:
        try:
            await call(attester)
        except AttestreamError as error:
            log.warning("%s: not written, will be tried again: %s", attester.agent_id, error)

    def _landed(self, attester: Attester, *, answered: bool = False) -> None:
        if attester.in_flight:
            attester.in_flight = False
            self.in_flight -= 1
            if not answered:
                # The answer may still come, and must not be taken for that to the next challenge.
                attester.reply = ""

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
