"""Where evidence becomes standing: freshness, appraisal, and what follows from them, in this order:
transition event, result, and only then is the evidence acknowledged by whoever called."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from attestream.appraisal import freshness
from attestream.appraisal.appraise import Appraisal, Verdict, appraise_whole
from attestream.appraisal.clock import restarted
from attestream.appraisal.findings import finding
from attestream.appraisal.standing import Trigger, step
from attestream.appraisal.state import AttesterState
from attestream.bus.connection import Bus
from attestream.errors import MalformedError
from attestream.ima.memo import Memo
from attestream.telemetry import APPRAISALS, counter
from attestream.tpm.structures import parse_quote
from schemas.attestation import Evidence
from schemas.events import EventKind, Finding, Standing
from services.verifier import custody, identities
from services.verifier.archive import Archivist, Before
from services.verifier.attester import Attester
from services.verifier.cluster_secret import ClusterSecret
from services.verifier.journal import Journal
from services.verifier.scheduler import Scheduler, monotonic_ms

log = logging.getLogger(__name__)

MAX_RETRIES: Final = 3
"""Authentic but incomplete answers in a row before they count as missed."""

LARGE_LOGS: Final = 65_536
"""Bytes of logs that are appraised at once; larger ones in a thread. A log can take half a minute, and a worker that stands
still for so long loses its partitions, as does whoever takes them over and is given the same log."""

LARGE_AT_A_TIME: Final = 2
"""Large logs that are appraised at the same time: each makes everything else slower."""

REFUSALS_EVERY_MS: Final = 60_000
"""At most one event and one line in the log about refused evidence per agent in this time: anyone can provoke refusals."""

ASK_EVERY_MS: Final = 10_000
"""How long the registrar is not asked again about an agent after it has denied the enrolment that evidence named."""

PAUSE_FACTOR: Final = 9
"""An agent whose evidence took long is left alone for so many times as long, at most a third of its lease."""

HOUR_MS: Final = 3_600_000


class Desk:
    """Appraises the evidence of one worker's agents."""

    def __init__(
        self,
        bus: Bus,
        journal: Journal,
        scheduler: Scheduler,
        clock: Callable[[], int],
        *,
        secret: ClusterSecret,
        window_ms: int,
        warnings_per_h: int,
    ) -> None:
        self._bus = bus
        self._journal = journal
        self._scheduler = scheduler
        self._clock = clock
        self._secret = secret
        self._window = window_ms
        self._warnings_per_h = warnings_per_h
        self._memo = Memo()
        self.archive = Archivist(bus, clock, window_ms)
        self._large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.appraised: Counter[str] = Counter()
        """Appraisals since the start, by verdict."""
        self._reported: Counter[str] = Counter()
        self._appraisals = counter(APPRAISALS)
        scheduler.on_missed = self.missed
        scheduler.on_rest = self.rest

    def routine(self, attester: Attester, evidence: Evidence, received_at: int) -> bool:
        """Deal with a good answer that changes no standing, without waiting; ``False``: it needs :meth:`receive`."""
        if attester.busy or attester.standing is not Standing.TRUSTED or self._clock() - evidence.issued_at > self._window:
            return False
        if attester.findings or evidence.enrolment != attester.enrolment or self._stale(attester, evidence, received_at):
            return False
        if is_large(evidence) or _starts_over_unasked(attester, evidence):
            return False
        before = Before.of(attester) if attester.policy.keeping is not None else None
        appraisal = self._appraise(attester, evidence, received_at)
        if appraisal.verdict is not Verdict.PASS or appraisal.findings:
            return False
        self.appraised[appraisal.verdict] += 1
        self._passed(attester, evidence, appraisal, received_at)
        if before is not None:
            self.archive.offer(attester, evidence, appraisal, before, received_at)
        if evidence.pcr_values:
            # No row is written for a bare answer: all that it changes is the clock, and losing that costs nothing.
            self._journal.progressed(attester)
        if attester.seq == evidence.seq or attester.again:
            self._scheduler.answered(attester)
        if self._renewal_due(attester, received_at):
            self._scheduler.rest(attester)
        return True

    def report(self) -> None:
        """Add the appraisals since the last call to the metric: counting each there would cost more than a digest."""
        for verdict, new in (self.appraised - self._reported).items():
            self._appraisals.add(new, {"verdict": verdict})
        self._reported = self.appraised.copy()

    async def receive(self, attester: Attester, evidence: Evidence, received_at: int, *, again: bool = False) -> None:
        """Deal with any evidence. ``received_at`` is when the bus got it, ``again`` whether the bus delivers it once more.

        :raises AttestreamError: when something could not be written; the evidence must then be offered again.
        """
        async with self.alone(attester):
            await self._receive(attester, evidence, received_at, again=again)

    @asynccontextmanager
    async def alone(self, attester: Attester) -> AsyncIterator[None]:
        """Hold ``attester`` for a change of its standing: two at a time would number their events alike.

        :raises FencedError: when it is not held here any more once its turn has come.
        """
        async with self._locks.setdefault(attester.agent_id, asyncio.Lock()):
            attester.partition.check_held(attester)
            attester.busy = True
            try:
                yield
            finally:
                attester.busy = False

    async def missed(self, attester: Attester) -> None:
        """A challenge got no answer."""
        async with self.alone(attester):
            await self._missed(attester)

    async def _missed(self, attester: Attester) -> None:
        await self.check_lapse(attester)
        if attester.missed < attester.partition.settings.missed_before_unreachable:
            return
        change = step(attester.standing, Trigger.MISSED)
        if change is not None:
            lost = finding(
                "freshness.unanswered", message=f"{attester.missed} challenges in a row stayed without a complete answer."
            )
            await self._journal.transition(attester, change.kind, change.after, findings=[lost])
            attester.findings = [lost]
            await self._journal.renew(attester)

    async def rest(self, attester: Attester) -> None:
        """Keep the result of an agent that is not challenged, or renew that of one that has just passed."""
        async with self.alone(attester):
            if self._renewal_due(attester, self._clock()):
                await self._journal.renew(attester)

    async def flooded(self, attester: Attester, received_at: int) -> None:
        """A message was thrown away because its agent sends too many."""
        await self._refuse(attester, finding("limits.evidence"), received_at)

    async def check_lapse(self, attester: Attester) -> None:
        """Put on the record that the result of ``attester`` has run out. The caller holds the agent."""
        if attester.result_expires_at and attester.result_expires_at <= self._clock():
            change = step(attester.standing, Trigger.LAPSED)
            if change is not None:
                await self._journal.transition(attester, change.kind, change.after)
            attester.result_expires_at = 0

    async def _receive(self, attester: Attester, evidence: Evidence, received_at: int, *, again: bool) -> None:
        if not attester.watched:
            # Stopped, or failed and waiting for an operator: what comes in late changes nothing.
            return
        refusal = self._stale(attester, evidence, received_at)
        if refusal is not None:
            if not again:
                await self._refuse(attester, refusal, received_at)
            return
        if evidence.enrolment != attester.enrolment and received_at - attester.asked_at >= ASK_EVERY_MS:
            identities.adopt(attester, await identities.ask(self._bus, attester.agent_id))
            if evidence.enrolment != attester.enrolment:
                attester.asked_at = received_at
        if _starts_over_unasked(attester, evidence):
            # It could have the whole log replayed with each challenge.
            await self._incomplete(attester, evidence, attester.state)
            self._scheduler.answered(attester)
            return
        if (boot := custody.lacking(attester, evidence)) is not None:
            async with self._large:
                evidence = await custody.completed(self._bus, attester, evidence, boot)
        took_ms = 0
        before = Before.of(attester)
        if is_large(evidence):
            async with self._large:
                began = monotonic_ms()
                appraisal = await asyncio.to_thread(self._appraise, attester, evidence, received_at)
                took_ms = monotonic_ms() - began
        else:
            appraisal = self._appraise(attester, evidence, received_at)
        verdict = _verdict(attester, evidence, appraisal)
        self.appraised[verdict] += 1
        if verdict is Verdict.FAIL:
            await self._failed(attester, evidence, appraisal, received_at)
        elif verdict is Verdict.AGAIN:
            await self._again(attester, evidence, appraisal, received_at)
        else:
            await self._good(attester, evidence, appraisal, received_at)
        self.archive.offer(attester, evidence, appraisal, before, received_at)
        if attester.seq == evidence.seq or attester.again:
            self._scheduler.answered(attester, min(PAUSE_FACTOR * took_ms, attester.lease_ms // 3))

    def is_stale(self, attester: Attester, evidence: Evidence, received_at: int) -> bool:
        """Return whether ``evidence`` is not fresh."""
        return self._stale(attester, evidence, received_at) is not None

    def _stale(self, attester: Attester, evidence: Evidence, received_at: int) -> Finding | None:
        found: Finding | None = None
        ours = evidence.seq == attester.seq and evidence.issued_at == attester.issued_at
        for secret in self._secret.of(evidence.issued_at):
            found = freshness.judge(
                attester.agent_id,
                evidence.nonce,
                evidence.seq,
                evidence.issued_at,
                secret=secret,
                now=received_at,
                last_seq=attester.accepted,
                window_ms=self._window,
                issued=attester.nonce if ours else b"",
            )
            if found is None or found.code != freshness.INVALID:
                break
        return found

    def _appraise(self, attester: Attester, evidence: Evidence, now: int) -> Appraisal:
        return appraise_whole(
            evidence,
            agent_id=attester.agent_id,
            ak=attester.ak,
            transport=attester.transport,
            policy=attester.policy,
            state=attester.state,
            now=now,
            memo=self._memo,
        )

    async def _good(self, attester: Attester, evidence: Evidence, appraisal: Appraisal, received_at: int) -> None:
        if self._clock() - evidence.issued_at > self._window:
            # It waited on the stream: what it proves is kept, but it says nothing about now.
            self._advance(attester, evidence, appraisal.state)
            attester.again = True
            return
        warnings = list(appraisal.findings)
        change = step(attester.standing, Trigger.PASSED, recovery=attester.policy.recovery)
        if change is not None:
            await self._journal.transition(attester, change.kind, change.after, findings=warnings, cause_at=received_at)
        elif _codes(warnings) - _codes(attester.findings):
            await self._warn(attester, warnings, received_at)
        news = change is not None or warnings != attester.findings
        attester.findings = warnings
        self._passed(attester, evidence, appraisal, received_at)
        if news:
            self._journal.touch(attester)
        else:
            self._journal.progressed(attester)
        if news or self._renewal_due(attester, received_at):
            await self._journal.renew(attester)

    async def _failed(self, attester: Attester, evidence: Evidence, appraisal: Appraisal, received_at: int) -> None:
        found = list(appraisal.findings)
        change = step(attester.standing, Trigger.FAILED)
        if change is not None:
            await self._journal.transition(attester, change.kind, change.after, findings=found, cause_at=received_at)
        attester.findings = found
        attester.missed = 0
        self._advance(attester, evidence, appraisal.state)
        self._journal.touch(attester)
        await self._journal.renew(attester)

    async def _warn(self, attester: Attester, warnings: list[Finding], received_at: int) -> None:
        """Put warnings on the record: so many of one agent in an hour, then one that says that there are more."""
        if received_at - attester.warned_since >= HOUR_MS:
            attester.warned, attester.warned_since = 0, received_at
        attester.warned += 1
        if attester.warned > self._warnings_per_h + 1:
            return
        if attester.warned > self._warnings_per_h:
            text = f"{self._warnings_per_h} warnings within an hour are on the record; the rest of the hour's are not."
            warnings = [finding("limits.warnings", message=text)]
        await self._journal.transition(
            attester, EventKind.WARNED, attester.standing, findings=warnings, cause_at=received_at
        )

    async def _incomplete(self, attester: Attester, evidence: Evidence, state: AttesterState) -> None:
        self._advance(attester, evidence, state)
        attester.retries += 1
        if attester.retries <= MAX_RETRIES:
            attester.again = True
        else:
            # Who answers and shows nothing is as absent as who does not answer: the same follows from it.
            attester.retries = 0
            attester.missed += 1
            await self._missed(attester)

    async def _again(self, attester: Attester, evidence: Evidence, appraisal: Appraisal, received_at: int) -> None:
        if appraisal.state.ima_entries <= attester.state.ima_entries:
            await self._incomplete(attester, evidence, appraisal.state)
            return
        # One more part of a log that is too long for one evidence: the next is asked for.
        if appraisal.findings:
            # The parts to come do not say it again.
            await self._warn(attester, list(appraisal.findings), received_at)
        if attester.standing is Standing.TRUSTED:
            # Whoever has parts without end must not stay trusted for them.
            await self.check_lapse(attester)
        self._advance(attester, evidence, appraisal.state)
        attester.missed = attester.retries = 0
        attester.again = True

    def _passed(self, attester: Attester, evidence: Evidence, appraisal: Appraisal, now: int) -> None:
        self._advance(attester, evidence, appraisal.state)
        attester.missed = 0
        attester.retries = 0
        attester.attestations += 1
        attester.last_at = now

    @staticmethod
    def _advance(attester: Attester, evidence: Evidence, state: AttesterState) -> None:
        attester.accepted = max(attester.accepted, evidence.seq)
        attester.state = state

    async def _refuse(self, attester: Attester, refusal: Finding, received_at: int) -> None:
        if received_at - attester.refused_at >= REFUSALS_EVERY_MS:
            attester.refused_at = received_at
            log.warning("%s: evidence refused: %s", attester.agent_id, refusal.message)
            await self._journal.refused(attester, refusal, received_at)

    @staticmethod
    def _renewal_due(attester: Attester, now: int) -> bool:
        return attester.result_expires_at - now < attester.lease_ms * 2 // 3


def _starts_over_unasked(attester: Attester, evidence: Evidence) -> bool:
    """Return whether the log of ``evidence`` starts at 0 while its beginning is proven and the machine has not rebooted."""
    ima, state = evidence.ima, attester.state
    if ima is None or ima.ima_first or not state.ima_entries or state.policy != attester.policy.digest:
        return False
    try:
        # Not verified yet: one that lies about its boots fails.
        return not restarted(parse_quote(evidence.quote).clock, state)
    except MalformedError:
        return False


def _verdict(attester: Attester, evidence: Evidence, appraisal: Appraisal) -> Verdict:
    """Return the verdict of ``appraisal``. Evidence is only incomplete that fails for nothing but a boot log which its
    challenge did not ask for: somebody has issued that who knew a good one.
    """
    failures = {found.code for found in appraisal.findings if found.severity == "failure"}
    unasked = evidence.seq != attester.boot_asked and failures == {"boot.log-missing"}
    return Verdict.AGAIN if unasked and appraisal.verdict is Verdict.FAIL else appraisal.verdict


def is_large(evidence: Evidence) -> bool:
    """Return whether the logs of ``evidence`` are appraised in a thread."""
    log = len(evidence.ima.data) if evidence.ima is not None else 0
    return log + len(evidence.boot_log) > LARGE_LOGS


def _codes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(item.code, item.culprit) for item in findings}
