"""What operators tell a worker: to give its partitions away, to take part again, to have the pool share out anew.

A drained worker stays so until it is told otherwise or starts again; nothing but its heartbeat says it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from attestream.bus.connection import Bus
from attestream.errors import ExpiredError, MalformedError, RefusedError
from attestream.trust.authority import STEER_WORKERS
from attestream.trust.keyring import ANYBODY, Author
from schemas import subjects
from schemas.commands import DrainWorker, Rebalanced, RebalanceWorkers
from schemas.enrolment import Done
from schemas.events import Event, EventKind
from services.verifier.plan import Planner

log = logging.getLogger(__name__)

QUEUE: Final = "verifier"


class Steering:
    """Answers for worker ``name``. ``announce`` tells the pool at once what has changed here."""

    def __init__(
        self, bus: Bus, name: str, planner: Planner, clock: Callable[[], int], announce: Callable[[], Awaitable[None]]
    ) -> None:
        self.draining = False
        """Whether the worker gives its partitions away and takes none."""
        self._bus = bus
        self._name = name
        self._planner = planner
        self._clock = clock
        self._announce = announce
        self._started_at = clock()

    async def serve(self) -> None:
        """Begin to answer."""
        orders = subjects.worker_orders(self._name)
        await self._bus.serve(orders, self._name, DrainWorker, self.drain, signed=True, authorise=STEER_WORKERS)
        subject = subjects.VERIFIER_REBALANCE
        await self._bus.serve(subject, QUEUE, RebalanceWorkers, self.rebalance, signed=True, authorise=STEER_WORKERS)

    async def drain(self, order: DrainWorker, author: Author) -> Done:
        """Give all partitions away, or take part again.

        :raises RefusedError: when there is nobody who could take them.
        """
        if order.worker != self._name:
            raise MalformedError(f"this is {self._name}, not {order.worker[:64]}")
        if author.key_id and author.signed_at < self._started_at:
            # What was said to an earlier worker of this name does not count for this one.
            raise ExpiredError("the order is older than the worker", remedy="Give it again if it is still wanted.")
        if order.drain == self.draining:
            return Done()
        if order.drain:
            await self._check_others()
        kind = EventKind.WORKER_DRAINED if order.drain else EventKind.WORKER_UNDRAINED
        await self.record(kind, author)
        self.draining = order.drain
        log.info("%s by %s", "drained" if order.drain else "takes part again", author.name or "somebody")
        await self._announce()
        return Done()

    async def rebalance(self, _: RebalanceWorkers, author: Author) -> Rebalanced:
        """Have the partitions shared out by the loads of now."""
        await self._announce()
        moves = await self._planner.rebalance()
        await self.record(EventKind.WORKERS_REBALANCED, author, f"{moves} partitions move")
        return Rebalanced(moves=moves)

    async def record(self, kind: EventKind, author: Author = ANYBODY, detail: str = "") -> None:
        """Put on the record what has happened to this worker, and who wanted it.

        :raises BusError: when the stream does not take it.
        """
        now = self._clock()
        event = Event(
            id=f"{kind}:{self._name}:{now}",
            kind=kind,
            agent_id=self._name,
            at=now,
            actor=author.name if author.key_id else "",
            actor_key=author.key_id,
            detail=detail,
            worker=self._name,
        )
        await self._bus.publish_durable(subjects.event(kind, self._name), event, message_id=event.id, sign=True)

    async def _check_others(self) -> None:
        workers = await self._planner.workers()
        if not any(not status.draining for name, status in workers.items() if name != self._name):
            raise RefusedError(
                "no other worker could take its partitions, and their agents would not be attested",
                remedy="Start another worker, or undrain one, first.",
            )
