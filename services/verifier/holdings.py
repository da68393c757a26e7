"""The partitions that a worker holds: it takes what the plan gives it, hands over the rest, and drops what it has lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from typing import Final

from attestream.errors import AttestreamError, FencedError
from services.verifier.lease import Lease, Owner, Session, boot_clock, disown, is_over, owners
from services.verifier.partition import Partition, Services
from services.verifier.plan import Planner
from services.verifier.steering import Steering

log = logging.getLogger(__name__)

HAND_OVER_AT_ONCE: Final = 4
"""Partitions that are on their way to another worker at one time: all others are attested meanwhile."""


async def quietly(work: Awaitable[object]) -> None:
    """Await ``work`` and leave its failure to the log."""
    try:
        await work
    except AttestreamError as error:
        log.warning("%s", error.message)


class Holdings:
    """The partitions of one worker, all held under one session."""

    def __init__(self, services: Services, planner: Planner, steering: Steering) -> None:
        self.partitions: dict[int, Partition] = {}
        """Those that are open, by index."""
        self._services = services
        self._planner = planner
        self._steering = steering
        self._lifetime = services.settings.partition_lease_s
        self._session = self._new_session()
        self._closing: dict[int, asyncio.Task[None]] = {}
        self._refused = False
        """Whether the last partition that was to be opened could not be: the next are not told of then."""
        self._owned: set[int] = set()
        """Partitions that this worker had when the bus was there last."""
        self._wait_until = 0.0
        self._handed: dict[int, float] = {}
        """Partitions that were given away and that nobody holds yet, and since when."""
        self._checked = boot_clock()
        """When the owners of all partitions were looked at last."""

    async def stay(self) -> None:
        """Renew the session, and drop what is not held under it any more.

        :raises BusError: the bus does not answer.
        """
        try:
            await self._session.renew(self._services.clock())
        except FencedError:
            # It was too late. Nothing that was held under that session may be relied on, and it is never begun again.
            self._session = self._new_session()
            await self._session.renew(self._services.clock())
        finally:
            for partition in list(self.partitions.values()):
                if partition.lease.lost or partition.fence.broken:
                    log.warning("partition %d is lost to another worker", partition.index)
                    self._lose(partition)
                elif not partition.lease.valid:
                    self._lose(partition)

    async def turn(self) -> None:
        """Bring what is held one step nearer to what the plan says.

        :raises AttestreamError: the bus does not answer, or the database.
        """
        if boot_clock() < self._wait_until:
            # The sessions of others may have lapsed because the bus was away: they come back for what they have.
            share = self._owned
        else:
            share = {index for index, owner in enumerate(await self._planner.look()) if owner == self._services.worker}
        leaving = [index for index in self.partitions if index not in share]
        wanted = share - self.partitions.keys() - self._closing.keys()
        if self._steering.draining or not self._session.valid:
            wanted = set()
        if leaving or wanted or boot_clock() >= self._checked + self._lifetime:
            known = await owners(self._services.bus)
            self._checked = boot_clock()
            await self._drop_overtaken(known)
            await self._disown(known, share)
            if leaving:
                await self._hand_over(leaving, {index for index, owner in known.items() if owner.alive})
            if wanted:
                await self._take_free(wanted, known)
        if boot_clock() >= self._wait_until:
            self._owned = set(self.partitions)

    def wait_for_others(self) -> None:
        """The bus was away: take nothing for now but what was held here before."""
        self._wait_until = boot_clock() + self._lifetime

    async def give_up_all(self) -> None:
        """Hand every partition over."""
        await asyncio.gather(*(quietly(self._give_up(index)) for index in list(self.partitions)))

    def _new_session(self) -> Session:
        return Session(self._services.bus, self._services.worker, self._lifetime)

    async def _drop_overtaken(self, known: Mapping[int, Owner]) -> None:
        """Close what has another record than ours: the bus has forgotten it, or another worker was allowed to take it."""
        for partition in list(self.partitions.values()):
            owner = known.get(partition.index)
            seen = owner is not None and owner.revision == partition.lease.revision
            # What was read may be older than what was taken a moment ago.
            if not seen and not await partition.lease.holds():
                log.warning("partition %d is lost to another worker", partition.index)
                self._lose(partition)

    async def _disown(self, known: Mapping[int, Owner], share: set[int]) -> None:
        """Delete records under our session of what is held here no more, or never was: nobody else could take it."""
        for index, owner in known.items():
            ours = owner.session == self._session.id
            if ours and index not in share and index not in self.partitions and index not in self._closing:
                await disown(self._services.bus, index, owner.revision)

    async def _hand_over(self, leaving: list[int], held: set[int]) -> None:
        """Give up a few of the partitions in ``leaving``, and more when others have taken those."""
        # Whoever is to take one may have died: that must not keep the others here for ever.
        oldest = boot_clock() - self._lifetime
        self._handed = {index: since for index, since in self._handed.items() if index not in held and since > oldest}
        going = sorted(leaving)[: max(0, HAND_OVER_AT_ONCE - len(self._handed))]
        if not going:
            return
        log.info("partitions %s move to another worker", going)
        await self._services.journal.flush()
        await asyncio.gather(*(self._give_up(index) for index in going))
        self._handed |= dict.fromkeys(going, boot_clock())

    async def _take_free(self, wanted: Iterable[int], known: Mapping[int, Owner]) -> None:
        over: dict[str, bool] = {"": True, self._session.id: True}
        """Sessions under which nobody else holds anything. What is under our own was dropped here, or never opened."""
        free = {}
        for index in sorted(wanted):
            owner = known.get(index)
            if owner is None:
                free[index] = 0
                continue
            if owner.session not in over:
                over[owner.session] = not owner.alive and await is_over(self._services.bus, owner.session)
            if over[owner.session]:
                free[index] = owner.revision
        await asyncio.gather(*(self._take(index, replaces) for index, replaces in free.items()))
        if free:
            log.info("owns %d partitions with %d agents", len(self.partitions), len(self._services.roster))

    async def _take(self, index: int, replaces: int) -> None:
        lease = Lease(self._services.bus, index, self._services.worker, self._session)
        partition = Partition(index, lease, self._services)
        try:
            if not await lease.acquire(self._services.clock(), replaces):
                return
            await partition.open()
        except AttestreamError as error:
            # Not passed on: the next turn must not begin, and take them once more, while others are still being opened.
            if not self._refused:
                log.error("partition %d can not be opened, this is tried again: %s", index, error.message)
            self._refused = True
            await self._close(partition, lost=True)
            return
        self.partitions[index] = partition
        self._refused = False

    def _lose(self, partition: Partition) -> None:
        """Close a partition that is not ours any more, beside everything else: a bus that is gone makes that slow."""
        if self.partitions.pop(partition.index, None) is None:
            return
        task = asyncio.ensure_future(self._close(partition, lost=True))
        self._closing[partition.index] = task
        task.add_done_callback(lambda _: self._closing.pop(partition.index))

    async def _give_up(self, index: int) -> None:
        partition = self.partitions.pop(index, None)
        if partition is not None:
            await self._close(partition)

    @staticmethod
    async def _close(partition: Partition, *, lost: bool = False) -> None:
        await quietly(partition.close(lost=lost))
        await quietly(partition.lease.release())
