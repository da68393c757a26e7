"""Events are written in the transaction of what they tell of, and published from there: a crash between the two loses none.

A row is removed after the stream has confirmed its event. A crash before the removal, or two replicas at once, publish it
again under the same message id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from attestream.bus.connection import Bus
from attestream.database import reading, transaction
from attestream.errors import AttestreamError
from schemas import subjects
from schemas.base import encode
from schemas.events import Event
from services.registrar.tables import outbox

BATCH: Final = 256
LOOK_AGAIN_S: Final = 5.0
"""Seconds after which the table is looked at without a reason: another replica may have died with rows in it."""

_log = logging.getLogger(__name__)


async def add(connection: AsyncConnection, *events: Event) -> None:
    """Write events in the caller's transaction. An event's id is its message id."""
    rows = [
        {"message_id": event.id, "subject": subjects.event(event.kind, event.agent_id), "data": encode(event)}
        for event in events
    ]
    if rows:
        await connection.execute(insert(outbox), rows)


class Publisher:
    """Publishes what is in the outbox, in order, for as long as it runs."""

    def __init__(self, engine: AsyncEngine, bus: Bus, *, publish_timeout_s: float = 10.0) -> None:
        self._publish_timeout_s = publish_timeout_s
        self._engine = engine
        self._bus = bus
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Say that there may be something new."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled. What fails is tried again: nothing is skipped."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                published = await self.drain()
            except AttestreamError as error:
                failures += 1
                if failures == 1:
                    _log.warning("events wait in the outbox: %s (%s)", error.message, error.code)
                await asyncio.sleep(min(2.0**failures * 0.1, LOOK_AGAIN_S) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                continue
            failures = 0
            if published:
                _log.info("published %d events", published)
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def drain(self) -> int:
        """Publish everything that is there now and return how many events that were.

        :raises BusError: when the bus does not confirm an event; it and those after it stay.
        :raises StorageError: when the database does not answer.
        """
        published = 0
        while True:
            async with reading(self._engine) as connection:
                rows = (await connection.execute(select(outbox).order_by(outbox.c.id).limit(BATCH))).all()
            if not rows:
                return published
            stored: list[int] = []
            try:
                for row in rows:
                    await self._bus.publish_durable(
                        row.subject, row.data, message_id=row.message_id, sign=True, timeout_s=self._publish_timeout_s
                    )
                    stored.append(row.id)
            finally:
                async with transaction(self._engine) as connection:
                    await connection.execute(delete(outbox).where(outbox.c.id.in_(stored)))
            published += len(stored)
