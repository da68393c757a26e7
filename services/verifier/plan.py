"""The plan of the pool: one key that says which worker is to own which partition.

Whoever comes first in the alphabet among the live workers writes it when the list of workers has changed, by
compare-and-set, so that all follow the same one. It is a wish: the lease of a partition decides who owns it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.errors import BusyError, FencedError
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import PoolPlan, WorkerStatus
from services.verifier.lease import boot_clock
from services.verifier.membership import share_out

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a plan is made anew that somebody else was quicker to write."""

REVIEW_MS = 1_500
"""After a plan for other workers it is looked at once more: heartbeats may have told of loads that were not the newest."""

_STATUS = Decoder[WorkerStatus](WorkerStatus)
_PLAN = Decoder[PoolPlan](PoolPlan)
_NOBODY = [""] * subjects.PARTITIONS


LOOK_S = 1.0
"""Most time between two looks, whatever is heard."""

SETTLE_S = 0.3
"""How long each look is a new one after something was heard: that is told before every server has stored it."""


class Planner:
    """Reads the plan for worker ``name``, and makes a new one where that is its turn.

    It looks when it has heard of something new: of a worker, of a plan, or for too long nothing of a worker, which may have
    died. A worker is heard each third of ``lifetime_s``.
    """

    def __init__(self, bus: Bus, name: str, clock: Callable[[], int], lifetime_s: float) -> None:
        self._bus = bus
        self._name = name
        self._clock = clock
        self._silence_s = lifetime_s / 2
        self._review_at = 0
        self._owners = _NOBODY
        self._looked = self._doubted = -LOOK_S
        self._heard: dict[str, float] = {}
        """When each worker that is alive was heard last."""
        self._draining: set[str] = set()

    async def follow(self) -> None:
        """Begin to listen."""
        await keyvalue.hear(self._bus, topology.WORKERS.name, "*", self._heartbeat)
        await keyvalue.hear(self._bus, topology.LEASES.name, topology.KEY_PLAN, lambda _key, _plan: self.doubt())

    def doubt(self) -> None:
        """Look anew at the next calls of :meth:`look`: something is new, or may have been missed."""
        self._doubted = boot_clock()

    def _heartbeat(self, worker: str, data: bytes) -> None:
        try:
            draining = _STATUS.decode(data).draining if data else False
        except SchemaError:
            draining = False
        if not data or worker not in self._heard or draining != (worker in self._draining):
            self.doubt()
        else:
            self._heard[worker] = boot_clock()

    async def workers(self) -> dict[str, WorkerStatus]:
        """Return the heartbeats of the workers that are alive.

        :raises BusError: when the bus does not answer.
        """
        found = {}
        for key, entry in (await keyvalue.entries(self._bus, topology.WORKERS.name)).items():
            try:
                found[key] = _STATUS.decode(entry.value)
            except SchemaError as error:
                log.warning("the heartbeat of %s can not be read: %s", key, error)
        return found

    async def look(self) -> list[str]:
        """Return the worker that is to own each partition; empty where nobody is yet.

        :raises BusError: when the bus does not answer.
        """
        now = boot_clock()
        overdue = any(heard + self._silence_s < now for heard in self._heard.values())
        if overdue or now >= self._looked + LOOK_S or now < self._doubted + SETTLE_S or self._review_due():
            self._owners = await self._look()
            self._looked = now
        return self._owners

    def _review_due(self) -> bool:
        return 0 < self._review_at <= self._clock()

    async def _look(self) -> list[str]:
        workers = await self.workers()
        self._heard = {name: self._heard.get(name, boot_clock()) for name in workers}
        self._draining = {name for name, status in workers.items() if status.draining}
        members = _members(workers)
        plan, revision = await self._read()
        changed = plan is None or plan.members != members
        if members and members[0] == self._name and (changed or self._review_due()):
            self._review_at = self._clock() + REVIEW_MS if changed else 0
            try:
                plan = await self._write(workers, members, plan, revision)
            except FencedError:
                log.debug("another worker has written the plan of the pool")
        return plan.owners if plan is not None else _NOBODY

    async def rebalance(self) -> int:
        """Write a plan by the loads of now and return how many partitions move.

        :raises BusyError: when others write plans all the time.
        :raises BusError: when the bus does not answer.
        """
        for _ in range(ATTEMPTS):
            workers = await self.workers()
            plan, revision = await self._read()
            try:
                made = await self._write(workers, _members(workers), plan, revision)
            except FencedError:
                continue
            before = plan.owners if plan is not None else _NOBODY
            return sum(old != new for old, new in zip(before, made.owners, strict=True))
        raise BusyError("other workers change the plan at the same time")

    async def _read(self) -> tuple[PoolPlan | None, int]:
        found = await keyvalue.entries(self._bus, topology.LEASES.name, topology.KEY_PLAN)
        entry = found.get(topology.KEY_PLAN)
        if entry is None:
            return None, 0
        try:
            plan = _PLAN.decode(entry.value)
        except SchemaError as error:
            log.error("the plan of the pool can not be read: %s", error)
            return None, entry.revision
        whole = len(plan.owners) == len(plan.loads) == subjects.PARTITIONS
        return (plan if whole else None), entry.revision

    async def _write(
        self, workers: dict[str, WorkerStatus], members: list[str], plan: PoolPlan | None, revision: int
    ) -> PoolPlan:
        loads = list(plan.loads) if plan is not None else [0] * subjects.PARTITIONS
        for status in workers.values():
            for index, load in zip(status.partitions, status.loads, strict=False):
                if 0 <= index < subjects.PARTITIONS:
                    loads[index] = load
        owners = share_out(members, loads, plan.owners if plan is not None else _current(workers))
        made = PoolPlan(members=members, owners=owners, loads=loads, at=self._clock(), worker=self._name)
        await keyvalue.put(self._bus, topology.LEASES.name, topology.KEY_PLAN, encode(made), expected=revision)
        log.info("planned the partitions of %d workers: %s", len(members), ", ".join(members))
        return made


def _members(workers: dict[str, WorkerStatus]) -> list[str]:
    return sorted(name for name, status in workers.items() if not status.draining)


def _current(workers: dict[str, WorkerStatus]) -> list[str]:
    owners = list(_NOBODY)
    for name, status in workers.items():
        for index in status.partitions:
            if 0 <= index < subjects.PARTITIONS:
                owners[index] = name
    return owners
