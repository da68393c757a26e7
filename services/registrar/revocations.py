"""Ends the identities of agents that have failed or were deleted, as soon as the record says so.

The order is: entry in the database, then event acknowledged, then the account on the servers. What a crash leaves undone
is done by the next registrar that looks, or by this one when it is back: what the servers have confirmed is in the database,
and at the start, and from time to time, what they have is compared with what they should have.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.bus.connection import Bus
from attestream.bus.consume import DEFERRED, Consumer, Deferred
from attestream.bus.delivery import Delivery
from attestream.credentials.account import MAX_REVOKED
from attestream.database import reading, transaction
from attestream.errors import AttestreamError, MalformedError
from attestream.telemetry import BUS_IDENTITIES, BUS_REVOCATION_TIME, counter, histogram
from schemas import subjects, topology
from schemas.base import Decoder
from schemas.events import Event, EventKind
from services.registrar import bus_keys, machines, standing
from services.registrar.bus_account import BusAccount
from services.registrar.grouping import MOST, Group

DURABLE: Final = "registrar"
LOOK_AGAIN_S: Final = 5.0
"""Seconds after which the database is looked at without a reason: another registrar may have died."""
COMPARE_S: Final = 30.0
"""Seconds between two looks at what the servers have."""

_STOP_S: Final = 5.0
# After a kill the next registrar gets what was under way this much later. A repetition does no harm.
_ACK_WAIT_S: Final = 3.0
_EVENT: Final = Decoder[Event](Event)
_log = logging.getLogger(__name__)


class _News(NamedTuple):
    """What an event says of an agent."""

    agent_id: str
    at: int
    """When it happened (Unix ms)."""
    decision: standing.Decision


class Revocations:
    """Follows the record, and keeps the servers informed. Registrars share the work.

    :param lifetime_s: of identities.
    :param clock: Unix time in milliseconds.
    """

    def __init__(
        self, engine: AsyncEngine, bus: Bus, account: BusAccount, *, lifetime_s: int, clock: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._bus = bus
        self._account = account
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._counter = counter(BUS_IDENTITIES)
        self._time = histogram(BUS_REVOCATION_TIME)
        self._changed = asyncio.Event()
        self._untold: list[int] = []
        # A fleet that fails at once costs a few transactions, not one for each machine.
        self._records = Group[str, standing.Decision](self._read)
        self._decisions = Group[_News, None](self._decide)
        self._settling: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MOST)
        self.consumer = Consumer(
            bus,
            topology.EVENTS.name,
            DURABLE,
            self._heard,
            # One filter, so that the right to make this consumer is the right to make no other.
            filters=[subjects.events_of_kind("*")],
            batch=MOST,
            ack_wait_s=_ACK_WAIT_S,
        )

    async def start(self) -> None:
        """Follow the record.

        :raises BusError: the bus does not answer.
        :raises StorageError: the database does not answer.
        """
        async with transaction(self._engine) as connection:
            await bus_keys.begin(connection)
            agent_id, last = await standing.last_kept(connection)
        if not await standing.is_of_this_record(self._bus, agent_id, last):
            _log.warning("the record has begun anew; what it says from now on counts")
            async with transaction(self._engine) as connection:
                await standing.begin_anew(connection)
        await self.consumer.start()

    async def stop(self) -> None:
        """Follow the record no more. What is not decided in time comes to the next registrar."""
        await self.consumer.stop()
        if self._settling:
            _, late = await asyncio.wait(self._settling, timeout=_STOP_S)
            for task in late:
                task.cancel()

    async def run(self) -> None:
        """Keep the servers informed until cancelled. What fails is tried again."""
        failures, compared = 0, 0.0
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            try:
                if not compared or loop.time() - compared > COMPARE_S:
                    await self._account.look()
                    await self.tell(always=True)
                    compared = loop.time()
                else:
                    await self.tell()
            except AttestreamError as error:
                failures += 1
                _log.warning("the servers do not know yet which identities are void: %s (%s)", error.message, error.hint)
                await asyncio.sleep(min(0.1 * 2.0 ** min(failures, 6), LOOK_AGAIN_S) * random.uniform(0.5, 1))  # noqa: S311 - jitter
                continue
            failures = 0
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def tell(self, *, always: bool = False) -> None:
        """Bring the servers in line with the database.

        :param always: also when they have confirmed the last change.
        :raises BusError: a server does not confirm it.
        :raises StorageError: the database does not answer.
        """
        while True:
            now = self._clock() // 1000
            async with reading(self._engine) as connection:
                change, confirmed = await bus_keys.changes(connection)
                entries = await bus_keys.entries(connection, now=now)
            if change == confirmed and not always:
                return
            if len(entries) > MAX_REVOKED:
                async with transaction(self._engine) as connection:
                    await bus_keys.bound(connection, now=now)
                    entries = await bus_keys.entries(connection, now=now)
            untold, self._untold = self._untold, []
            try:
                await self._account.bring_in_line(entries, since=now - 2 * self._lifetime_s)
            except BaseException:
                self._untold += untold
                raise
            for at in untold:
                self._time.record(max(0, self._clock() - at) / 1000)
            async with transaction(self._engine) as connection:
                await bus_keys.confirm(connection, change)
            # Another registrar may have told them something newer meanwhile, and this has taken it back.
            async with reading(self._engine) as connection:
                later, _ = await bus_keys.changes(connection)
            if later == change:
                return

    async def sweep(self) -> None:
        """Forget what has expired.

        :raises StorageError: the database does not answer.
        """
        async with transaction(self._engine) as connection:
            await bus_keys.sweep(connection, now=self._clock() // 1000)

    async def _heard(self, delivery: Delivery) -> Deferred | None:
        if delivery.subject.split(".")[2] not in standing.DECIDING:
            return None
        await self._bus.trust.author_of(delivery)
        event = _EVENT.decode(delivery.data)
        if subjects.event(event.kind, event.agent_id) != delivery.subject:
            raise MalformedError(f"the event on {delivery.subject} is about something else")
        decision = standing.decided_by(event.kind, delivery.sequence, recovery=event.recovery)
        if decision is standing.UNDECIDED:
            return None
        # Deliveries may come late and out of order, what the record says now counts; a server that lags may not have it yet.
        doubtful = delivery.deliveries > 1 or not decision.blocked or event.kind is EventKind.DELETED
        # No more at a time than the server hands out: while the database hangs, what it delivers anew waits with it.
        await self._room.acquire()
        task = asyncio.create_task(self._settle(delivery, _News(event.agent_id, event.at, decision), doubtful=doubtful))
        self._settling.add(task)
        task.add_done_callback(self._settled)
        return DEFERRED

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._room.release()

    async def _settle(self, delivery: Delivery, news: _News, *, doubtful: bool) -> None:
        try:
            if doubtful:
                news = news._replace(decision=news.decision.after(await self._records.submit(news.agent_id)))
            await self._decisions.submit(news)
        except Exception as error:  # noqa: BLE001 - whatever it is, it decides what becomes of the delivery
            await self.consumer.fail(delivery, error)
        else:
            await delivery.ack()

    async def _read(self, agent_ids: list[str]) -> list[standing.Decision]:
        return await standing.all_on_record(self._bus, agent_ids)

    async def _decide(self, news: list[_News]) -> list[None]:
        """Keep what has been decided, and make void what it blocks, all in one transaction."""
        names: list[list[str]] = []
        async with transaction(self._engine) as connection:
            fresh = await standing.keep(connection, [(one.agent_id, one.decision) for one in news])
            blocked = [one for one, new in zip(news, fresh, strict=True) if new and one.decision.blocked]
            # What a machine has failed as one agent, it has failed as all that it is enrolled as.
            failed = [one.agent_id for one in blocked if one.decision.failed]
            same = await machines.others(connection, failed) if failed else {}
            for one in blocked:
                also = sorted(same.get(one.agent_id, ())) if one.decision.failed else []
                names.append([one.agent_id, *also])
            everybody = {name for each in names for name in each}
            revoked = await bus_keys.revoke(connection, everybody, now=self._clock() // 1000)
        for one, each in zip(blocked, names, strict=True):
            if keys := [key for name in each for key in revoked.pop(name, ())]:
                self._counter.add(len(keys), {"outcome": "revoked"})
                self._untold.append(one.at)
                self._changed.set()
                who = ", ".join(each)
                _log.warning("agent %s is cut off (%s): its identity on the bus is void", who, one.decision.reason)
        return [None] * len(news)
