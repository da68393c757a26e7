"""The life of a worker: its heartbeat, its turns, and the answers of its agents."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from attestream import __version__
from attestream.appraisal.freshness import MAX_SKEW_MS
from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.topology import prepare
from attestream.config import LimitsConfig, VerifierConfig
from attestream.errors import AttestreamError
from attestream.telemetry import LATENESS, gauge
from schemas import subjects, topology
from schemas.attestation import Evidence
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import WorkerStatus
from services.verifier.attester import Attester
from services.verifier.boot_modules import load_boot_policies
from services.verifier.cluster_secret import ClusterSecret
from services.verifier.desk import Desk
from services.verifier.holdings import Holdings, quietly
from services.verifier.journal import Journal
from services.verifier.lease import boot_clock
from services.verifier.memory import give_back_now_and_then
from services.verifier.partition import Services
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
"""Time between two looks at who is alive and which partitions are free."""

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
        self.name = settings.worker_id or f"w-{secrets.token_hex(4)}"
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._inbox = bus.nc.new_inbox()
        self._started_at = clock()
        self._returned = asyncio.Event()
        self._rated = (monotonic_ms(), 0)
        self._rate = 0.0
        self._lateness = gauge(LATENESS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._roster: dict[str, Attester] = {}
        self.services = self._equip(store, secret, limits or LimitsConfig())
        self.scheduler = self.services.scheduler
        self._planner = planner = Planner(bus, self.name, clock, settings.partition_lease_s)
        self._steering = Steering(bus, self.name, planner, clock, self._announce)
        self._holdings = Holdings(self.services, planner, self._steering)

    def _equip(self, store: Store, secret: ClusterSecret, limits: LimitsConfig) -> Services:
        bus, settings, clock = self._bus, self._settings, self._clock
        journal = Journal(bus, store, clock, self.name, settings.flush_ms)
        scheduler = Scheduler(
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
            scheduler,
            clock,
            secret=secret,
            window_ms=2 * settings.challenge_timeout_ms + MAX_SKEW_MS,
            warnings_per_h=limits.warnings_per_agent_h,
        )
        return Services(
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
            scheduler=scheduler,
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
        held = self._holdings.partitions
        overload = self.scheduler.overload
        return WorkerStatus(
            worker=self.name,
            started_at=self._started_at,
            partitions=sorted(held),
            agents=len(self._roster),
            attestations=self.services.desk.appraised.total(),
            in_flight=self.scheduler.in_flight,
            loads=[held[index].load() for index in sorted(held)],
            rate=round(self._rate, 2),
            lateness_ms=overload.worst_ms,
            overloaded=overload.now,
            draining=self._steering.draining,
            version=__version__,
        )

    async def run(self) -> None:
        """Take part in the pool, for ever."""
        await self._bus.nc.hear(f"{self._inbox}.*.*", self._answer)
        await self._planner.follow()
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
                group.create_task(give_back_now_and_then())
        finally:
            forget()

    async def stop(self) -> None:
        """Hand everything over: rows first, then the partitions, so that the next owner finds all."""
        await quietly(self.services.journal.flush())
        # The others share out its partitions while it still gives them up.
        await quietly(keyvalue.delete(self._bus, topology.WORKERS.name, self.name))
        await self._holdings.give_up_all()
        await self.services.desk.archive.flush(ARCHIVE_S)

    async def _stay_alive(self) -> None:
        # Apart from taking partitions: a database that is slow to open one must not cost the others.
        lifetime = self._settings.partition_lease_s
        while True:
            began = boot_clock()
            try:
                self._measure()
                await self._holdings.stay()
                await self._announce()
            except AttestreamError as error:
                log.warning("the pool is out of reach: %s", error.message)
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
            self._spawn(quietly(self._steering.record(turn, detail=text)))

    async def _take_part(self) -> None:
        while True:
            try:
                await self._holdings.turn()
                for partition in list(self._holdings.partitions.values()):
                    await partition.tidy()
            except AttestreamError as error:
                log.warning("no partition is taken for now: %s", error.message)
            await asyncio.sleep(LOOK_S)

    async def _reconnected(self) -> None:
        self._holdings.wait_for_others()
        self._planner.doubt()
        self.scheduler.returned()
        self._returned.set()

    async def _recover(self) -> None:
        """Set up again what the bus has lost each time that it was gone: streams and buckets, and what was on its way."""
        while True:
            await self._returned.wait()
            self._returned.clear()
            try:
                await prepare(self._bus)
                for partition in self._holdings.partitions.values():
                    partition.intake.doubt()
            except AttestreamError as error:
                log.warning("the bus is not whole yet: %s", error.message)
                self._returned.set()
                await asyncio.sleep(LOOK_S)

    def _answer(self, subject: str, data: bytes) -> None:
        _, reply, token = subject.rsplit(".", 2)
        if reply == TICK and token.isdigit():
            self.scheduler.heard(int(token))
            return
        attester = self._roster.get(token)
        if attester is None:
            return
        if not data:
            # The server's own answer when nobody listens (status 503).
            if reply == attester.reply:
                self.scheduler.absent(attester)
            return
        try:
            evidence = _EVIDENCE.decode(data)
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
        await quietly(self.services.desk.receive(attester, evidence, received_at))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
