"""What a worker writes: events, results, and rows behind them.

The order is always event, then result, then row: an event that is on the record is found again by whoever takes over, a
row that was not written is only older than it could be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from attestream.bus.connection import Bus
from attestream.errors import FencedError, StorageError
from schemas import subjects
from schemas.events import Event, EventKind, Finding, Result, Standing
from services.verifier import identities
from services.verifier.attester import Attester
from services.verifier.lease import Fence
from services.verifier.snapshots import Owned, Snapshots
from services.verifier.store import Row, Store, pack_findings

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""Pause after the database refused a batch."""

PROGRESS_MS: Final = 30_000
"""How long the row of an agent may lack what good appraisals have added."""

LOOK_S: Final = 1.0
"""Time between two looks for rows that have waited so long."""

SHOWN_FINDINGS: Final = 16
"""Most findings that a result repeats; the event has them all."""


class Order(msgspec.Struct, frozen=True):
    """The command behind an event, and who has signed it."""

    id: str = ""
    at: int = 0
    """Of the signature, Unix ms; 0 where nothing is signed."""
    actor: str = ""
    key_id: str = ""


UNASKED: Final = Order()
"""What nobody has asked for."""


class Journal:
    """Publishes events and results under the fence of the agent's partition, and saves rows in batches."""

    def __init__(self, bus: Bus, store: Store, clock: Callable[[], int], worker: str, flush_ms: int) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._worker = worker
        self._flush_s = flush_ms / 1000
        self._dirty: dict[str, Attester] = {}
        self._later: dict[str, Attester] = {}
        """By the time at which they began to lack something."""
        self._wanted = asyncio.Event()
        self._saving = asyncio.Lock()
        self.snapshots = Snapshots(bus)

    async def transition(
        self,
        attester: Attester,
        kind: EventKind,
        after: Standing,
        *,
        findings: list[Finding] | None = None,
        order: Order = UNASKED,
        cause_at: int = 0,
    ) -> Event:
        """Put a change of ``attester`` on the record, then let it take effect here.

        :raises BusError: when the stream does not take it; nothing has changed then.
        :raises FencedError: when another worker owns the partition.
        """
        partition = attester.partition
        partition.check_owned()
        number = attester.event_number + 1
        settings = kind in (EventKind.ADDED, EventKind.UPDATED)
        event = Event(
            id=f"{attester.agent_id}:{attester.incarnation}:{number}",
            kind=kind,
            agent_id=attester.agent_id,
            at=self._clock(),
            event_number=number,
            enrolment=attester.enrolment,
            standing=after,
            before=attester.standing,
            policy=attester.policy_name,
            findings=findings or [],
            command_id=order.id,
            command_at=order.at,
            actor=order.actor,
            actor_key=order.key_id,
            worker=self._worker,
            fence=partition.fence.token,
            cause_at=cause_at,
            recovery=attester.policy.recovery if kind is EventKind.FAILED else "",
            interval_ms=attester.interval_ms if settings else 0,
            lease_ms=attester.lease_ms if settings else 0,
        )
        # Whether it is on the record is not known until its receipt is here; if none comes, a later event settles it.
        partition.unsettled.add(attester.agent_id)
        await self.record(event, partition.fence)
        attester.event_number = number
        attester.standing = after
        self.touch(attester)
        partition.unsettled.discard(attester.agent_id)
        log.info("%s: %s -> %s (%s)", attester.agent_id, event.before, after, kind)
        return event

    async def refused(self, attester: Attester, finding: Finding, received_at: int) -> None:
        """Put on the record that evidence was thrown away. The standing stays as it is."""
        attester.partition.check_owned()
        event = Event(
            id=f"{attester.agent_id}:{attester.incarnation}:refused:{received_at}",
            kind=EventKind.REFUSED,
            agent_id=attester.agent_id,
            at=self._clock(),
            event_number=attester.event_number,
            enrolment=attester.enrolment,
            standing=attester.standing,
            before=attester.standing,
            policy=attester.policy_name,
            findings=[finding],
            worker=self._worker,
            fence=attester.partition.fence.token,
            cause_at=received_at,
        )
        await self.record(event, attester.partition.fence)

    async def record(self, event: Event, fence: Fence) -> None:
        """Publish ``event`` under ``fence``.

        :raises BusError: when the stream does not take it.
        :raises FencedError: when another worker has taken the fence.
        """
        subject = subjects.event(event.kind, event.agent_id)
        # An event whose receipt was lost is stored, and its number given out again: no failure may pass for its repeat.
        message_id = f"{event.id}:{event.kind}"
        try:
            ack = await self._bus.publish_durable(subject, event, message_id=message_id, guard=fence.event_guard, sign=True)
        except FencedError:
            fence.broken = True
            raise
        self.snapshots.reached(ack.sequence)

    async def renew(self, attester: Attester) -> None:
        """Publish the result of ``attester`` with a whole lease from now on.

        :raises BusError: when the stream does not take it.
        :raises FencedError: when another worker owns the partition.
        """
        partition = attester.partition
        partition.check_owned()
        now = self._clock()
        # A trusted agent's lease counts from the evidence that it rests on: writing it late must not make it longer.
        since = attester.last_at or now if attester.standing is Standing.TRUSTED else now
        lasts = attester.promise_ms(partition.settings.lease_stretch)
        if since + lasts <= now:
            return
        result = Result(
            agent_id=attester.agent_id,
            standing=attester.standing,
            at=now,
            expires_at=since + lasts,
            seq=attester.accepted,
            event_number=attester.event_number,
            enrolment=attester.enrolment,
            policy=attester.policy_name,
            findings=attester.findings[:SHOWN_FINDINGS],
            worker=self._worker,
            fence=partition.fence.token,
        )
        try:
            await self._bus.publish_durable(
                subjects.result(attester.agent_id),
                result,
                message_id=f"{attester.agent_id}:{attester.incarnation}:{attester.event_number}:{now}",
                guard=partition.fence.result_guard,
                ttl_s=max(1, -((now - result.expires_at) // 1000)),
                sign=True,
                patient=True,
            )
        except FencedError:
            partition.fence.broken = True
            raise
        attester.renewed_at = now
        attester.result_expires_at = result.expires_at

    def begin(self, partition: Owned) -> None:
        """Mark the rows of ``partition`` from now on (:mod:`services.verifier.snapshots`), at first with the next batch."""
        self.snapshots.begin(partition)
        self._wanted.set()

    def touch(self, attester: Attester) -> None:
        """Let the row of ``attester`` be written with the next batch."""
        self._later.pop(attester.agent_id, None)
        self._dirty[attester.agent_id] = attester
        self._wanted.set()

    def progressed(self, attester: Attester) -> None:
        """Let the row of ``attester`` be written within :data:`PROGRESS_MS`, once for all that happens until then.

        For what costs a successor no more than a few log entries that it asks for again.
        """
        if attester.agent_id not in self._dirty and attester.agent_id not in self._later:
            attester.unsaved_since = self._clock()
            self._later[attester.agent_id] = attester

    def forget(self, attester: Attester) -> None:
        """Write nothing more of ``attester``."""
        self._dirty.pop(attester.agent_id, None)
        self._later.pop(attester.agent_id, None)

    async def save(self, attester: Attester) -> None:
        """Write the row of ``attester`` now, in one batch with all that wait for the same.

        :raises StorageError: when the database does not take it.
        """
        self.touch(attester)
        await self._write()

    async def erase(self, attester: Attester) -> None:
        """Remove the row of ``attester``, after a batch that may hold it.

        :raises StorageError: when the database refuses; the next owner of the partition removes it then.
        """
        partition = attester.partition
        # A row that stays although its agent's end is on the record must not be believed.
        partition.unsettled.add(attester.agent_id)
        async with self._saving:
            self.forget(attester)
            await self._store.delete(
                attester.agent_id, partition.fence.token, commanded_at=attester.commanded_at, now=self._clock()
            )
        partition.unsettled.discard(attester.agent_id)

    async def flush(self) -> None:
        """Write all rows that have changed.

        :raises StorageError: when the database refuses.
        """
        self._dirty |= self._later
        self._later.clear()
        await self._write(at_once=True)

    async def _write(self, *, at_once: bool = False) -> None:
        """Write what is dirty. What was not written is kept for the next time."""
        async with self._saving:
            batch, self._dirty = self._dirty, {}
            self._wanted.clear()
            rows = [row_of(attester) for attester in batch.values() if attester.partition.owned]
            # A lease that is only late will be renewed.
            self._dirty |= {id_: attester for id_, attester in batch.items() if attester.partition.late}
            marks = self.snapshots.marks(self._clock() / 1000, at_once=at_once)
            saved = False
            try:
                await self._store.save(rows, marks)
                self.snapshots.written(marks)
                saved = True
            finally:
                # Refused, or cut off by the worker's end, which writes all that is left itself.
                if not saved:
                    self._dirty = batch | self._dirty
                    self._wanted.set()

    async def run(self) -> None:
        """Write changed rows behind, for ever."""
        refused = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            await asyncio.sleep(self._flush_s)
            self._ripen()
            try:
                await self._write()
            except StorageError as error:
                if not refused:
                    log.error("rows are not saved, this is tried again every %g s: %s", RETRY_S, error.message)
                refused = True
                await asyncio.sleep(RETRY_S)
            else:
                refused = False

    def _ripen(self) -> None:
        ripe = self._clock() - PROGRESS_MS
        while self._later:
            agent_id, attester = next(iter(self._later.items()))
            if attester.unsaved_since > ripe:
                return
            self._dirty[agent_id] = self._later.pop(agent_id)


def row_of(attester: Attester) -> Row:
    """Return the row that describes ``attester`` now."""
    return Row(
        agent_id=attester.agent_id,
        partition=attester.partition.index,
        fence=attester.partition.fence.token,
        policy=attester.policy_name,
        interval_ms=attester.interval_ms,
        lease_ms=attester.lease_ms,
        enrolment=attester.enrolment,
        identity=identities.stored(attester),
        standing=attester.standing.value,
        state=attester.state.encode(),
        accepted=attester.accepted,
        incarnation=attester.incarnation,
        event_number=attester.event_number,
        last_command=attester.last_command,
        commanded_at=attester.commanded_at,
        last_at=attester.last_at,
        findings=pack_findings(attester.findings[:SHOWN_FINDINGS]),
    )
