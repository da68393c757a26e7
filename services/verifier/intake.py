"""A partition's share of EVIDENCE and COMMANDS, consumed by its owner, each in order."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar, cast

from attestream.bus.connection import Bus
from attestream.bus.consume import Consumer, Delivery, Handler
from attestream.bus.takeover import take_over
from attestream.errors import AttestreamError
from schemas import subjects, topology
from schemas.attestation import MAX_PARTS

log = logging.getLogger(__name__)

T = TypeVar("T")

EVIDENCE_BATCH: Final = 2
"""One and a half batches of each partition may be on their way at once. If all of them are parts of large logs, they must
not be more than a server holds for one client before it cuts that off (its ``max_pending``, 64 MiB)."""
EVIDENCE_UNSETTLED: Final = 4 * (MAX_PARTS + 1)
"""Parts stay unacknowledged until the last has come: there must be room for the largest evidence of several agents."""
COMMAND_BATCH: Final = 32
ACK_WAIT_S: Final = 60.0
"""Well above the slowest appraisal."""
STOP_S: Final = 10.0
"""How long what is being dealt with may take to its end, and the bus to say that it gives out no more."""
AGAIN_S: Final = 0.25
"""Least time between two attempts to begin anew."""


class Intake:
    """From :meth:`start` until :meth:`stop`.

    ``owned`` says whether this worker still is the one to consume ``partition``. ``given_back`` returns the deliveries of
    evidence that their handler has deferred and has not begun to deal with.
    """

    def __init__(
        self,
        bus: Bus,
        partition: int,
        *,
        evidence: Handler,
        command: Handler,
        owned: Callable[[], bool],
        given_back: Callable[[], list[Delivery]],
    ) -> None:
        self._bus = bus
        self._partition = partition
        self._owned = owned
        self._given_back = given_back
        self._alone = asyncio.Lock()
        self._running = False
        self._in_doubt = False
        self._renewal: asyncio.Task[None] | None = None
        self._delivered_before = 0
        """Last sequence of EVIDENCE that was given out before it was consumed here."""
        consumer = functools.partial(Consumer, bus, ack_wait_s=ACK_WAIT_S, on_doubt=self.doubt)
        self.evidence = consumer(
            topology.EVIDENCE.name,
            f"verifier-evidence-{partition}",
            evidence,
            filters=[subjects.evidence_partition(partition)],
            batch=EVIDENCE_BATCH,
            max_ack_pending=EVIDENCE_UNSETTLED,
        )
        self.commands = consumer(
            topology.COMMANDS.name,
            f"verifier-commands-{partition}",
            command,
            filters=[subjects.command_partition(partition)],
            batch=COMMAND_BATCH,
            max_ack_pending=1,
        )

    def again(self, delivery: Delivery) -> bool:
        """Return whether this or another worker may have dealt with ``delivery`` of evidence before."""
        return delivery.deliveries > 1 or delivery.sequence <= self._delivered_before

    async def start(self) -> None:
        """Begin, with what an earlier owner was given and has not settled.

        :raises BusError: the bus refuses, or does not answer.
        """
        async with self._alone:
            self._running = True
            await self._start()

    async def stop(self, within_s: float = STOP_S) -> None:
        """Stop within ``within_s`` seconds, leaving what is not settled to the next owner."""
        self._running = False
        if self._renewal is not None:
            # It may be waiting for the bus, for longer.
            self._renewal.cancel()
        async with self._alone:
            await self._stop(within_s)

    def doubt(self) -> None:
        """Have everything that was delivered and is not settled delivered anew, in order: some of it may be lost."""
        self._in_doubt = True
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self._in_doubt and self._running:
            self._in_doubt = False
            try:
                async with self._alone:
                    await self._anew()
            except AttestreamError as error:
                log.warning("partition %d can not be consumed anew yet: %s", self._partition, error.message)
                self._in_doubt = True
            await asyncio.sleep(AGAIN_S)

    async def _anew(self) -> None:
        if not self._running:
            return
        await self._stop()
        if self._owned():
            await self._start()
        else:
            # Perhaps somebody else has it by now, and must not be disturbed.
            self._in_doubt = True

    async def _start(self) -> None:
        consumers = self.evidence, self.commands
        before = await _both(take_over(self._bus, consumer.stream, consumer.name) for consumer in consumers)
        self._delivered_before = before[0]
        await _both(consumer.start() for consumer in consumers)

    async def _stop(self, within_s: float = STOP_S) -> None:
        await asyncio.gather(self.evidence.stop(within_s), self.commands.stop(within_s))
        for delivery in self._given_back():
            await delivery.retry()


async def _both(steps: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Take ``steps`` at the same time and return what they return; raise the first error once all are over."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)
