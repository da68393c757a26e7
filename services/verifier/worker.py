"""The life of a worker: heartbeat, its share of the partitions, and their leases."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from attestream import __version__
from attestream.appraisal.freshness import MAX_SKEW_MS
from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.topology import prepare
from attestream.config import LimitsConfig, VerifierConfig
from attestream.errors import AttestreamError, BusError
from attestream.telemetry import LATENESS, gauge
from schemas import subjects, topology
from schemas.attestation import Evidence
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import WorkerStatus
from services.verifier.attester import Attester
from services.verifier.boot_modules import load_boot_policies
from services.verifier.cluster_secret import ClusterSecret
from services.verifier.desk import Desk
from services.verifier.journal import Journal
from services.verifier.lease import Lease, boot_clock
from services.verifier.partition import Partition, Services
from services.verifier.plan import Planner
from services.verifier.policies import Policies
from services.verifier.policy_signatures import load_policy_keys
from services.verifier.scheduler import TICK, Scheduler, monotonic_ms
from services.verifier.steering import Steering
from services.verifier.store import Store
from services.verifier.tail import Tail

log = logging.getLogger(__name__)

ARCHIVE_S: Final = 5.0
"""Most time that a worker which stops takes to write evidence that is to be kept."""

LOOK_S: Final = 0.1
"""Time between two looks at who is alive and which leases are free."""

HAND_OVER_AT_ONCE: Final = 4
"""Partitions that are on their way to another worker at one time: all others are attested meanwhile."""

RATE_WEIGHT: Final = 0.3
"""Of the newest heartbeat in the rate of attestations."""

_EVIDENCE: Final = Decoder[Evidence](Evidence)


class Worker:
    """One worker of the pool. :meth:`run` until it is cancelled, then :meth:`stop`."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        settings: VerifierConfig,
        secret: ClusterSecret,
        clock: Callable[[], int],
        limits: LimitsConfig | None = None,
    ) -> None:
        limits = limits or LimitsConfig()
        self.name = settings.worker_id or f"w-{secrets.token_hex(4)}"
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._inbox = bus.nc.new_inbox()
        self._partitions: dict[int, Partition] = {}
        self._started_at = clock()
        self._opening: dict[int, Partition] = {}
        self._closing: dict[int, asyncio.Task[None]] = {}
        self._refused = False
        """Whether the last partition that was to be opened could not be: the next are not told of then."""
        self._owned: set[int] = set()
        """Partitions that this worker had when the bus was there last."""
        self._returned = asyncio.Event()
        self._wait_until = 0.0
        self._handed: dict[int, float] = {}
        """Partitions that were given away and that nobody holds yet, and since when."""
        self._rated = (monotonic_ms(), 0)
        self._rate = 0.0
        self._lateness = gauge(LATENESS)
        self._planner = Planner(bus, self.name, clock)
        self._steering = Steering(bus, self.name, self._planner, clock, self._announce)
        self._tasks: set[asyncio.Task[None]] = set()
        self._roster: dict[str, Attester] = {}
        journal = Journal(bus, store, clock, self.name, settings.flush_ms)
        self.scheduler = Scheduler(
            bus,
            secret,
            clock,
            cap=settings.challenges_in_flight,
            timeout_ms=settings.challenge_timeout_ms,
            reply_prefix=self._inbox,
        )
        desk = Desk(
            bus,
            journal,
            self.scheduler,
            clock,
            secret=secret,
            window_ms=2 * settings.challenge_timeout_ms + MAX_SKEW_MS,
            warnings_per_h=limits.warnings_per_agent_h,
        )
        self.services = Services(
            bus=bus,
            worker=self.name,
            settings=settings,
            clock=clock,
            store=store,
            policies=Policies(
                bus,
                clock,
                boot_policies=load_boot_policies(settings.boot_policy_modules),
                keys=load_policy_keys(settings.policy_keys),
            ),
            journal=journal,
            scheduler=self.scheduler,
            desk=desk,
            tail=Tail(bus),
            roster=self._roster,
            limits=limits,
        )

    def attester(self, agent_id: str) -> Attester | None:
        """Return the agent if this worker owns it."""
        return self._roster.get(subjects.token(agent_id))

    def status(self) -> WorkerStatus:
        """Return what the worker tells about itself."""
        held = sorted(self._partitions)
        overload = self.scheduler.overload
        return WorkerStatus(
            worker=self.name,
            started_at=self._started_at,
            partitions=held,
            agents=len(self._roster),
            attestations=self.services.desk.appraised.total(),
            in_flight=self.scheduler.in_flight,
            loads=[self._partitions[index].load() for index in held],
            rate=round(self._rate, 2),
            lateness_ms=overload.worst_ms,
            overloaded=overload.now,
            draining=self._steering.draining,
            version=__version__,
        )

    async def run(self) -> None:
        """Take part in the pool, for ever."""
        await self._bus.nc.subscribe(f"{self._inbox}.*.*", cb=self._answer)
        await self._steering.serve()
        forget = self._bus.on_reconnect(self._reconnected)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.services.journal.run())
                group.create_task(self.services.journal.snapshots.run())
                group.create_task(self.scheduler.run())
                group.create_task(self._stay_alive())
                group.create_task(self._take_part())
                group.create_task(self._recover())
        finally:
            forget()

    async def stop(self) -> None:
        """Hand everything over: rows first, then the leases, so that the next owner finds all."""
        await self._quietly(self.services.journal.flush())
        # The others share out its partitions while it still gives them up.
        await self._quietly(keyvalue.delete(self._bus, topology.WORKERS.name, self.name))
        await asyncio.gather(*(self._quietly(self._give_up(index)) for index in list(self._partitions)))
        await self.services.desk.archive.flush(ARCHIVE_S)

    async def _stay_alive(self) -> None:
        # Apart from taking partitions: a database that is slow to open one must not cost the leases of the others.
        lifetime = self._settings.partition_lease_s
        while True:
            began = boot_clock()
            try:
                self._measure()
                await self._announce()
                await self._renew()
            except AttestreamError as error:
                log.warning("the pool is out of reach: %s", error.message)
                self._drop_lapsed()
            await asyncio.sleep(max(0.0, began + lifetime / 3 - boot_clock()))

    async def _announce(self) -> None:
        lifetime = self._settings.partition_lease_s
        status = encode(self.status())
        await keyvalue.put(
            self._bus, topology.WORKERS.name, self.name, status, expected=None, ttl_s=lifetime, timeout_s=lifetime
        )

    def _measure(self) -> None:
        self.services.desk.report()
        self.scheduler.keep_waiting()
        (since, before), now, total = self._rated, monotonic_ms(), self.services.desk.appraised.total()
        if now > since:
            self._rate += RATE_WEIGHT * ((total - before) * 1000 / (now - since) - self._rate)
            self._rated = now, total
        overload = self.scheduler.overload
        turn = overload.judge(now)
        self._lateness.set(overload.worst_ms / 1000, {"worker": self.name})
        if turn is not None:
            text = f"Challenges are up to {overload.worst_ms} ms late: intervals are {overload.stretch:.1f} times as long."
            log.warning("%s: %s", turn, text)
            self._spawn(self._quietly(self._steering.record(turn, detail=text)))

    async def _take_part(self) -> None:
        while True:
            try:
                await self._turn()
                for partition in list(self._partitions.values()):
                    await partition.tidy()
            except AttestreamError as error:
                log.warning("no partition is taken for now: %s", error.message)
            await asyncio.sleep(LOOK_S)

    async def _reconnected(self) -> None:
        self._wait_until = boot_clock() + self._settings.partition_lease_s
        self.scheduler.returned()
        self._returned.set()

    async def _recover(self) -> None:
        """Set up again what the bus has lost each time that it was gone: buckets in memory, and what was on its way."""
        while True:
            await self._returned.wait()
            self._returned.clear()
            try:
                await prepare(self._bus)
                for partition in self._partitions.values():
                    partition.intake.doubt()
            except AttestreamError as error:
                log.warning("the bus is not whole yet: %s", error.message)
                self._returned.set()
                await asyncio.sleep(LOOK_S)

    async def _turn(self) -> None:
        if boot_clock() < self._wait_until:
            # The bus may have forgotten the leases of others, who may rely on them for as long as they would have lived.
            share = self._owned
        else:
            share = {index for index, owner in enumerate(await self._planner.look()) if owner == self.name}
        leaving = [index for index in self._partitions if index not in share]
        wanted = share - self._partitions.keys() - self._closing.keys()
        if self._steering.draining:
            wanted = set()
        held = await keyvalue.entries(self._bus, topology.LEASES.name) if leaving or wanted else {}
        if leaving:
            await self._hand_over(leaving, held)
        if wanted:
            free = [index for index in sorted(wanted) if str(index) not in held]
            await asyncio.gather(*(self._take(index) for index in free))
            if free:
                log.info("owns %d partitions with %d agents", len(self._partitions), len(self._roster))
        if boot_clock() >= self._wait_until:
            self._owned = set(self._partitions)

    async def _hand_over(self, leaving: list[int], held: Collection[str]) -> None:
        """Give up a few of the partitions in ``leaving``, and more when others have taken those."""
        # Whoever is to take one may have died: that must not keep the others here for ever.
        oldest = boot_clock() - self._settings.partition_lease_s
        self._handed = {index: since for index, since in self._handed.items() if str(index) not in held and since > oldest}
        going = sorted(leaving)[: max(0, HAND_OVER_AT_ONCE - len(self._handed))]
        if not going:
            return
        log.info("partitions %s move to another worker", going)
        await self.services.journal.flush()
        await asyncio.gather(*(self._give_up(index) for index in going))
        self._handed |= dict.fromkeys(going, boot_clock())

    async def _renew(self) -> None:
        held = [*self._partitions.values(), *self._opening.values()]
        kept = await asyncio.gather(*(partition.lease.renew(self._clock()) for partition in held), return_exceptions=True)
        for partition, outcome in zip(held, kept, strict=True):
            if outcome is False or partition.fence.broken:
                log.warning("partition %d is lost to another worker", partition.index)
                self._lose(partition)
            elif isinstance(outcome, BusError):
                log.warning("the lease of partition %d could not be renewed: %s", partition.index, outcome.message)
            elif isinstance(outcome, BaseException):
                raise outcome

    def _drop_lapsed(self) -> None:
        for partition in list(self._partitions.values()):
            if not partition.lease.valid:
                self._lose(partition)

    def _lose(self, partition: Partition) -> None:
        """Close a partition that is not ours any more, beside everything else: a bus that is gone makes that slow."""
        if self._partitions.pop(partition.index, None) is None:
            return
        task = asyncio.ensure_future(self._close(partition))
        self._closing[partition.index] = task
        task.add_done_callback(lambda _: self._closing.pop(partition.index))

    async def _close(self, partition: Partition) -> None:
        await self._quietly(partition.close())
        await self._quietly(partition.lease.release())

    async def _take(self, index: int) -> None:
        lease = Lease(self._bus, index, self.name, self._settings.partition_lease_s)
        if not await lease.acquire(self._clock()):
            return
        partition = Partition(index, lease, self.services)
        self._opening[index] = partition
        try:
            await partition.open()
        except AttestreamError as error:
            if not self._refused:
                log.error("partition %d can not be opened, this is tried again: %s", index, error.message)
            self._refused = True
            await self._close(partition)
            return
        finally:
            del self._opening[index]
        self._partitions[index] = partition
        self._refused = False

    async def _give_up(self, index: int) -> None:
        partition = self._partitions.pop(index, None)
        if partition is not None:
            await self._close(partition)

    async def _answer(self, message: Any) -> None:
        _, reply, token = message.subject.rsplit(".", 2)
        if reply == TICK and token.isdigit():
            self.scheduler.heard(int(token))
            return
        attester = self._roster.get(token)
        if attester is None:
            return
        if not message.data:
            # The server's own answer when nobody listens (status 503).
            if reply == attester.reply:
                self.scheduler.absent(attester)
            return
        try:
            evidence = _EVIDENCE.decode(message.data)
        except SchemaError as error:
            log.warning("%s answered with what is not evidence: %s", attester.agent_id, error)
            return
        if evidence.agent_id != attester.agent_id:
            return
        now = self._clock()
        if reply != attester.reply and self.services.desk.is_stale(attester, evidence, now):
            # Late, or a stranger's guess: it must not be in the way of the answer that is awaited.
            return
        if not self.services.desk.routine(attester, evidence, now) and not attester.busy:
            attester.busy = True
            self._spawn(self._settle(attester, evidence, now))

    async def _settle(self, attester: Attester, evidence: Evidence, received_at: int) -> None:
        # What can not be written now is not lost: the agent stays where it was and is challenged again.
        await self._quietly(self.services.desk.receive(attester, evidence, received_at))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _quietly(work: Any) -> None:
        try:
            await work
        except AttestreamError as error:
            log.warning("%s", error.message)
