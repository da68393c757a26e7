"""One partition that this worker owns: its agents, and its share of EVIDENCE and COMMANDS, each in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

from attestream.appraisal.state import decode_state, fresh
from attestream.bus.connection import Bus
from attestream.bus.consume import DEFERRED, Deferred, Delivery
from attestream.config import LimitsConfig, VerifierConfig
from attestream.errors import AttestreamError, FencedError, MalformedError, RefusedError
from schemas import subjects
from schemas.attestation import ChangeNotice, Evidence, EvidencePart, Hello, Inbound
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import Command, Outcome, about
from schemas.events import Event, EventKind, Standing
from services.verifier import commands, identities, record
from services.verifier.assembly import Assembly, Whole
from services.verifier.attester import Attester
from services.verifier.desk import Desk, is_large
from services.verifier.intake import STOP_S, Intake
from services.verifier.journal import Journal, Order
from services.verifier.lease import Fence, Lease
from services.verifier.pace import Pace
from services.verifier.policies import Policies, split
from services.verifier.scheduler import Scheduler, monotonic_ms
from services.verifier.settling import BUSY_S, Settling
from services.verifier.store import Row, Snapshot, Store, unpack_findings
from services.verifier.tail import Tail

log = logging.getLogger(__name__)

LOST_S: Final = 1.0
"""How long the end of a lost partition may take: until then it can not be taken again, and a bus that has no leader for a
consumer yet answers nothing about it."""
LOADED_AT_ONCE: Final = 4
"""Partitions whose agents are loaded at the same time. What is read for all of them must not keep the bus's answer to the
renewal of the session waiting for as long as that lives."""
ROWS_AT_ONCE: Final = 32
"""Agents that are set up in a row, for the same reason."""

_INBOUND: Final = Decoder[Evidence | EvidencePart | Hello | ChangeNotice](Inbound)
_COMMAND: Final = Decoder[Command](Command)


@dataclass(frozen=True)
class Services:
    """What all partitions of a worker share."""

    bus: Bus
    worker: str
    settings: VerifierConfig
    clock: Callable[[], int]
    store: Store
    policies: Policies
    journal: Journal
    scheduler: Scheduler
    desk: Desk
    tail: Tail
    roster: dict[str, Attester]
    """Subject token -> agent, of all partitions."""
    limits: LimitsConfig
    pace: Pace = field(default_factory=Pace)
    loading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOADED_AT_ONCE))


class Partition:
    """Owned from :meth:`open` until :meth:`close`, as long as its lease is valid."""

    def __init__(self, index: int, lease: Lease, services: Services) -> None:
        self.index = index
        self.lease = lease
        self.bus = services.bus
        self.worker = services.worker
        self.settings = services.settings
        self.policies = services.policies
        self.journal = services.journal
        self.scheduler = services.scheduler
        self.fence = Fence(services.bus, index, services.worker)
        self.attesters: dict[str, Attester] = {}
        self._clock = services.clock
        self._store = services.store
        self._desk = services.desk
        self._tail = services.tail
        self._loading = services.loading
        self._pace = services.pace
        self._roster = services.roster
        self._assembly = Assembly()
        self._rate = services.limits.evidence_per_agent_s
        self.unsettled: set[str] = set()
        """Agents about which something may be on the record that is in no row to come: no mark is written meanwhile."""
        self._open = False
        self.intake = Intake(
            services.bus,
            index,
            evidence=self._evidence,
            command=self._command,
            owned=lambda: self.owned,
            given_back=self._assembly.drain,
        )
        self._settling = Settling(self.intake.evidence.fail)

    @property
    def is_open(self) -> bool:
        """Whether its agents are held here, by right or not."""
        return self._open

    @property
    def owned(self) -> bool:
        """Whether this worker may write for the partition's agents."""
        return self._open and self.lease.valid and not self.fence.broken

    @property
    def behind(self) -> bool:
        """Whether news have come that are not dealt with yet."""
        return self.intake.evidence.behind

    def load(self) -> int:
        """Return the attestations that its agents are due in a thousand seconds."""
        watched = (attester for attester in self.attesters.values() if attester.watched)
        return sum(max(1, 1_000_000 // attester.interval_ms) for attester in watched)

    @property
    def late(self) -> bool:
        """Whether only its lease is in doubt."""
        return self._open and not self.lease.valid and not self.fence.broken

    def now(self) -> int:
        """Return the time by the worker's clock, Unix ms."""
        return self._clock()

    def check_owned(self) -> None:
        """Do nothing while the partition is owned.

        :raises FencedError: when it is not.
        """
        if not self.owned:
            raise FencedError(f"partition {self.index} is not owned by {self.worker} any more")

    def check_held(self, attester: Attester) -> None:
        """Do nothing while ``attester`` is one of the partition's agents.

        :raises FencedError: when it is not: deleted meanwhile, or held by a later owner.
        """
        if self.attesters.get(attester.agent_id) is not attester:
            raise FencedError(f"{attester.agent_id} is not held by partition {self.index} of {self.worker} any more")

    def alone(self, attester: Attester) -> AbstractAsyncContextManager[None]:
        """Hold ``attester`` for a change (:meth:`services.verifier.desk.Desk.alone`)."""
        return self._desk.alone(attester)

    async def open(self) -> None:
        """Fence earlier owners off, load the agents, then begin with evidence and commands."""
        before = await self.fence.take(self._clock())
        self._open = True
        snapshot = await self._store.partition(self.index)
        async with self._loading:
            # Its turn may have come late.
            self.check_owned()
            loaded = await self._load(snapshot, before)
        self.journal.begin(self)
        within = self._pace.within(len(loaded), monotonic_ms())
        for attester in loaded:
            self.attesters[attester.agent_id] = attester
            self._roster[attester.token] = attester
            await self._desk.check_lapse(attester)
            self.scheduler.start(attester, within)
        await self.intake.start()

    async def close(self, *, lost: bool = False) -> None:
        """Stop, leaving what is not acknowledged to the next owner. A partition that is ``lost`` already waits for nobody:
        who takes it next has everything delivered anew."""
        await self.intake.stop(LOST_S if lost else STOP_S)
        await self._settling.stop()
        self._open = False
        self.journal.snapshots.end(self)
        for attester in self.attesters.values():
            self.scheduler.stop(attester)
            self.journal.forget(attester)
            self._roster.pop(attester.token, None)
        self.attesters.clear()

    def take_in(self, attester: Attester) -> None:
        """Begin to attest ``attester``."""
        self.attesters[attester.agent_id] = attester
        self._roster[attester.token] = attester
        self.scheduler.start(attester)

    async def let_go(self, attester: Attester) -> None:
        """Forget ``attester``; its result is left to lapse."""
        self.scheduler.stop(attester)
        self.attesters.pop(attester.agent_id, None)
        self._roster.pop(attester.token, None)
        await self.journal.erase(attester)

    async def deleted_by(self, agent_id: str) -> Order | None:
        """Return what deleted ``agent_id`` last, if anything has."""
        last = await record.last_event(self.bus, EventKind.DELETED, agent_id)
        return record.order_of(last) if last is not None else None

    async def ended_at(self, agent_id: str) -> int:
        """Return when the last command about a deleted agent was signed, by our own tables (Unix ms); 0: unknown."""
        return await self._store.ended_at(agent_id)

    async def announced(self, event: Event) -> bool:
        """Return whether the policy of ``event``, or a later version of it, is on the record."""
        last = await record.last_event(self.bus, event.kind, event.agent_id)
        return last is not None and _version(last) >= _version(event)

    async def _load(self, snapshot: Snapshot, before: int) -> list[Attester]:
        rows = {row.agent_id: row for row in snapshot.rows}
        since = snapshot.mark.since(before, self.fence.token) if snapshot.mark is not None else None
        last = await record.last_events(self.bus, self._tail, list(rows), since, self.fence)
        events, orders = await record.newer_events(self.bus, rows, last)
        loaded = []
        for count, row in enumerate(rows.values()):
            if count % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            event = events.get(row.agent_id)
            deleted = row.standing == Standing.UNKNOWN or (event is not None and event.kind is EventKind.DELETED)
            try:
                attester = await self._restore(row, event, orders.get(row.agent_id))
                if deleted:
                    # Its owner died between the event and what follows from it.
                    await self.journal.renew(attester)
                    await self.journal.erase(attester)
                else:
                    loaded.append(attester)
            except (AttestreamError, SchemaError) as error:
                if isinstance(error, AttestreamError) and not error.permanent:
                    raise
                log.error("%s can not be attested: %s", row.agent_id, error)
                # Its row stays as it is, whatever the record tells.
                self.unsettled.add(row.agent_id)
        by_id = {attester.agent_id: attester for attester in loaded}
        for agent_id, expires_at in (await record.expiries(self.bus, list(by_id))).items():
            by_id[agent_id].result_expires_at = expires_at
        return loaded

    async def _restore(self, row: Row, event: Event | None, order: Order | None) -> Attester:
        newer = event is not None and event.event_number > row.event_number
        name, policy = await self.policies.find(event.policy if event is not None and newer else row.policy)
        attester = Attester(row.agent_id, self, policy, name)
        attester.token = subjects.token(row.agent_id)
        identities.adopt_stored(attester, row.identity, row.enrolment)
        attester.interval_ms, attester.lease_ms = row.interval_ms, row.lease_ms
        attester.standing = Standing(row.standing)
        attester.state = decode_state(row.state)
        attester.accepted = attester.seq = row.accepted
        attester.incarnation, attester.event_number = row.incarnation, row.event_number
        attester.last_command, attester.last_at = row.last_command, row.last_at
        attester.commanded_at = row.commanded_at
        attester.findings = unpack_findings(row.findings)
        if event is not None and newer:
            # The row is older than the record: what was proven since is asked for again.
            attester.event_number, attester.standing = event.event_number, event.standing
            attester.findings = event.findings
            if order is not None:
                attester.last_command, attester.commanded_at = order.id, order.at
            attester.state = fresh()
            self.journal.touch(attester)
        return attester

    async def _command(self, delivery: Delivery) -> None:
        self.check_owned()
        command = _COMMAND.decode(delivery.data)
        subject_of = about(command)
        if delivery.subject.rpartition(".")[2] != subjects.token(subject_of):
            raise MalformedError(f"a command about {subject_of} was published under {delivery.subject}")
        try:
            author = await self.bus.trust.author_of(delivery)
        except RefusedError as error:
            await self._tell(delivery, commands.refusal(command, error))
            raise
        await self._tell(delivery, await commands.execute(self, command, author, delivery.sequence))

    async def _tell(self, delivery: Delivery, outcome: Outcome) -> None:
        reply_to = delivery.headers.get(subjects.HEADER_REPLY_TO, "")
        if subjects.INBOX.match(reply_to):
            data = encode(outcome)
            await self.bus.nc.publish(reply_to, data, headers=self.bus.trust.sign(reply_to, data))

    async def _evidence(self, delivery: Delivery) -> Deferred | None:
        self.check_owned()
        sender = self._roster.get(delivery.subject.rpartition(".")[2])
        if sender is not None and delivery.deliveries == 1 and not sender.allow(delivery.at, self._rate):
            # Not even looked at: whoever sends without end costs next to nothing.
            await self._desk.flooded(sender, delivery.at)
            return None
        message = _INBOUND.decode(delivery.data)
        if delivery.subject.rpartition(".")[2] != subjects.token(message.agent_id):
            raise MalformedError(f"a message of {message.agent_id} was published under {delivery.subject}")
        attester = self.attesters.get(message.agent_id)
        if attester is None:
            return None
        match message:
            case Evidence() | EvidencePart() if self._settling.busy(attester.agent_id):
                await delivery.retry(BUSY_S)
                return DEFERRED
            case Evidence(parts=0) if is_large(message):
                self._settle(attester, Whole(message, [delivery]), delivery)
                return DEFERRED
            case Evidence(parts=0):
                if not self._desk.routine(attester, message, delivery.at):
                    await self._desk.receive(attester, message, delivery.at, again=self.intake.again(delivery))
                return None
            case Evidence() if self._desk.is_stale(attester, message, delivery.at):
                # Its parts will find no quote, and are given up soon.
                await self._desk.receive(attester, message, delivery.at, again=self.intake.again(delivery))
                return None
            case Evidence() | EvidencePart():
                await self._collect(attester, message, delivery)
                return DEFERRED
            case Hello() | ChangeNotice():
                self.scheduler.soon(attester)
                return None

    async def _collect(self, attester: Attester, message: Evidence | EvidencePart, delivery: Delivery) -> None:
        now = self._clock()
        whole: Whole | None
        if isinstance(message, Evidence):
            whole = self._assembly.head(message, delivery, now)
        else:
            whole = self._assembly.part(message, delivery, now)
        if whole is not None:
            self._settle(attester, whole, delivery)
        await self.tidy()

    async def tidy(self) -> None:
        """Acknowledge what will never be whole: it would hold up the partition until the bus takes it back."""
        for given_up in self._assembly.given_up(self._clock()):
            await given_up.ack()

    def _settle(self, attester: Attester, whole: Whole, last: Delivery) -> None:
        again = self.intake.again(last)
        work = self._desk.receive(attester, whole.evidence, whole.deliveries[0].at, again=again)
        self._settling.begin(attester.agent_id, work, whole.deliveries, last)


def _version(event: Event) -> int:
    return split(event.policy)[1] or 0
