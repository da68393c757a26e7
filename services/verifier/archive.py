"""Keeps evidence, behind the verdict: what waits is bounded, and what finds no room is dropped, never an attestation."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from attestream import __version__
from attestream.appraisal.appraise import Appraisal, Verdict
from attestream.appraisal.keeping import Keeping
from attestream.appraisal.state import AttesterState
from attestream.archive.packing import MAX_BYTES, pack
from attestream.bus import objects
from attestream.bus.connection import Bus
from attestream.errors import AttestreamError
from attestream.telemetry import ARCHIVE_DROPPED, ARCHIVED, counter
from schemas import subjects, topology
from schemas.archive import ArchivedAppraisal, ArchiveEntry
from schemas.attestation import Evidence
from schemas.base import encode
from schemas.events import Standing
from services.verifier.attester import Attester
from services.verifier.custody import Custody, Grown

log = logging.getLogger(__name__)

LANES: Final = 4
"""Entries that are written at the same time; those of one agent one after the other."""

MAX_WAITING: Final = 4096
"""Entries that wait to be written."""

MAX_WAITING_BYTES: Final = 96 << 20
"""Bytes of evidence in them, except that one entry may always wait."""

AGENT_BYTES_H: Final = 160 << 20
"""Bytes of evidence of one agent that are kept within an hour: the largest evidence twice, and more."""

MAX_ALLOWANCES: Final = 65_536
"""Agents whose bytes are counted; whoever was quiet for longest is forgotten."""

CLAIMS_BYTES: Final = 4096
"""What a quote and its claims count for."""

UNPROVEN_BYTES: Final = 65_536
"""The same where the claims were not proven: they may be as large as a message."""

MAX_CODES: Final = 16
DAY_S: Final = 86_400
HOUR_MS: Final = 3_600_000
SMALL: Final = 65_536
"""Bytes that are compressed at once; more in a thread."""


class Before(NamedTuple):
    """What an agent was before an appraisal."""

    state: AttesterState
    accepted: int
    standing: Standing
    event_number: int

    @classmethod
    def of(cls, attester: Attester) -> Before:
        """Return what ``attester`` is now."""
        return cls(attester.state, attester.accepted, attester.standing, attester.event_number)


class _Waiting(NamedTuple):
    """An appraisal that waits to be written. What is in it does not change any more."""

    keeping: Keeping
    evidence: Evidence
    received_at: int
    size: int
    entry: bool
    """Whether it is kept as a whole, and not only its log entries."""
    kept: ArchivedAppraisal
    """Without the evidence, which is encoded later."""
    grown: Grown | None


class Archivist:
    """Writes what policies want to be kept. It works while something waits; nothing has to be started."""

    def __init__(self, bus: Bus, clock: Callable[[], int], window_ms: int) -> None:
        self._bus = bus
        self._clock = clock
        self._window = window_ms
        self._custody = Custody(bus, clock)
        self._lanes: list[deque[_Waiting]] = [deque() for _ in range(LANES)]
        self._writing: list[asyncio.Task[None] | None] = [None] * LANES
        self._count = 0
        self._size = 0
        self._allowances: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._warned: set[str] = set()
        self._entries = counter(ARCHIVED)
        self._drops = counter(ARCHIVE_DROPPED)
        self.dropped: Counter[str] = Counter()
        """What was not kept since the start, by reason."""

    def offer(self, attester: Attester, evidence: Evidence, appraisal: Appraisal, before: Before, received_at: int) -> None:
        """Take note of an appraisal whose effects are on the record, if the policy of ``attester`` wants it."""
        keeping = attester.policy.keeping
        if keeping is None:
            return
        changed = attester.event_number != before.event_number
        entry = keeping.wants(failed=appraisal.verdict is Verdict.FAIL, changed=changed)
        grown = Grown.of(attester, evidence, appraisal) if keeping.logs else None
        if not entry and grown is None:
            return
        size = CLAIMS_BYTES if appraisal.verdict is Verdict.PASS else UNPROVEN_BYTES
        size += len(evidence.boot_log) + (len(evidence.ima.data) if evidence.ima is not None else 0)
        if not self._admit(attester.agent_id, size, received_at):
            return
        kept = _inputs(attester, appraisal, before, received_at, self._clock(), self._window)
        waiting = _Waiting(keeping, evidence, received_at, size, entry, kept, grown)
        lane = zlib.crc32(attester.agent_id.encode()) % LANES
        self._lanes[lane].append(waiting)
        self._count += 1
        self._size += size
        task = self._writing[lane]
        if task is None or task.done():
            self._writing[lane] = asyncio.ensure_future(self._write(lane))

    async def flush(self, timeout_s: float) -> None:
        """Wait until all that was offered is written, for at most ``timeout_s`` seconds; what is not is dropped."""
        tasks = [task for task in self._writing if task is not None and not task.done()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                self._drop("bus", self._count)
                await asyncio.wait(late)

    def _admit(self, agent_id: str, size: int, now: int) -> bool:
        if size > MAX_BYTES:
            self._drop("too-large")
            return False
        if self._count >= MAX_WAITING or (self._count and self._size + size > MAX_WAITING_BYTES):
            self._drop("overflow")
            return False
        since, used = self._allowances.pop(agent_id, (now, 0))
        if now - since >= HOUR_MS:
            since, used = now, 0
        if used + size > AGENT_BYTES_H:
            self._allowances[agent_id] = since, used
            self._drop("allowance")
            return False
        self._allowances[agent_id] = since, used + size
        if len(self._allowances) > MAX_ALLOWANCES:
            self._allowances.popitem(last=False)
        return True

    def _drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] += count
        self._drops.add(count, {"reason": reason})
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning("evidence is not kept (%s); attestation goes on, and the metric counts what is missing", reason)

    async def _write(self, lane: int) -> None:
        line = self._lanes[lane]
        while line:
            waiting = line.popleft()
            try:
                if waiting.entry:
                    await self._keep(waiting)
                if waiting.grown is not None:
                    await self._custody.keep(waiting.grown, waiting.keeping.days * DAY_S)
            except AttestreamError as error:
                log.info("evidence of %s is not kept: %s", waiting.kept.agent_id, error.message)
                self._drop("bus")
            finally:
                self._count -= 1
                self._size -= waiting.size
            if not self._count:
                # What is to come is told of again.
                self._warned.clear()

    async def _keep(self, waiting: _Waiting) -> None:
        ttl_s = waiting.keeping.days * DAY_S
        if waiting.size > SMALL:
            data, packed = await asyncio.to_thread(_packed, waiting)
        else:
            data, packed = _packed(waiting)
        name = await objects.put(self._bus, topology.ARCHIVE_BUCKET, packed, ttl_s=ttl_s)
        kept = waiting.kept
        entry = ArchiveEntry(
            agent_id=kept.agent_id,
            at=kept.received_at,
            enrolment=kept.enrolment,
            seq=waiting.evidence.seq,
            verdict=kept.verdict,
            standing=kept.standing,
            event_number=kept.event_number,
            policy=kept.policy,
            policy_digest=kept.policy_digest,
            codes=list(dict.fromkeys(finding.code for finding in kept.findings))[:MAX_CODES],
            object=name,
            size=len(data),
            stored=len(packed),
            worker=kept.worker,
        )
        # Last of all: a line in the index is the promise that its object is there.
        await self._bus.publish_durable(
            subjects.archived_evidence(kept.agent_id), entry, message_id=f"archive:{name}", ttl_s=ttl_s, sign=True
        )
        self._entries.add(1)


def _inputs(
    attester: Attester, appraisal: Appraisal, before: Before, received_at: int, now: int, window_ms: int
) -> ArchivedAppraisal:
    return ArchivedAppraisal(
        agent_id=attester.agent_id,
        enrolment=attester.enrolment,
        incarnation=attester.incarnation,
        received_at=received_at,
        appraised_at=now,
        last_seq=before.accepted,
        window_ms=window_ms,
        ak_public=attester.ak.tpm2b,
        transport=attester.transport,
        policy=attester.policy_name,
        policy_digest=attester.policy.digest,
        state=before.state.encode(),
        evidence=b"",
        verdict=str(appraisal.verdict),
        findings=list(appraisal.findings),
        state_after=appraisal.state.encode(),
        before=before.standing,
        standing=attester.standing,
        event_number=attester.event_number,
        version=__version__,
        boot_policies=attester.partition.settings.boot_policy_modules,
        worker=attester.partition.worker,
    )


def _packed(waiting: _Waiting) -> tuple[bytes, bytes]:
    data = encode(msgspec.structs.replace(waiting.kept, evidence=encode(waiting.evidence)))
    return data, pack(data)
