"""An outside program on the bus: it hears revocations under a durable name, results and events, and notes when each came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, NamedTuple, TypeVar

from attestream.client import Client, DeliveredEvent, DeliveredResult, VerifiedRevocation
from attestream.client.subscription import Subscription
from schemas.events import EventKind, Standing

DURABLE: Final = "demo-outside"
"""The name under which the bus keeps this subscriber's place among the revocations."""

_A = TypeVar("_A", DeliveredEvent, DeliveredResult, VerifiedRevocation)


class Heard(NamedTuple, Generic[_A]):
    """A message and when it came, in Unix milliseconds."""

    at: float
    item: _A


class Subscriber:
    """What was heard so far, oldest first."""

    def __init__(self) -> None:
        self.revocations: list[Heard[VerifiedRevocation]] = []
        self.results: list[Heard[DeliveredResult]] = []
        self.events: list[Heard[DeliveredEvent]] = []

    def result(self, agent_id: str, *, since: float = 0) -> Heard[DeliveredResult] | None:
        """Return the newest result of an agent that came after ``since``."""
        return _newest(self.results, lambda heard: heard.item.agent_id == agent_id and heard.at >= since)

    def trusted(self, agent_id: str, *, since: float) -> Heard[DeliveredResult] | None:
        """Return the newest result of an agent if it says ``trusted``, still holds, and came after ``since``."""
        newest = self.result(agent_id, since=since)
        # The moment that counts is now: a result that was good when it came may have lapsed since.
        if newest is None or newest.item.result is None or now_ms() >= newest.item.result.expires_at:
            return None
        return newest if newest.item.standing is Standing.TRUSTED else None

    def event(self, kind: EventKind, agent_id: str, *, since: float = 0) -> Heard[DeliveredEvent] | None:
        """Return the newest event of ``kind`` about an agent that came after ``since``."""
        return _newest(
            self.events,
            lambda heard: heard.at >= since and heard.item.event.kind is kind and heard.item.event.agent_id == agent_id,
        )

    def revocation(self, agent_id: str, *, since: float) -> Heard[VerifiedRevocation] | None:
        """Return the newest revocation of an agent that came after ``since``; its signature was verified."""
        return _newest(self.revocations, lambda heard: heard.at >= since and heard.item.agent_id == agent_id)


@asynccontextmanager
async def listening(client: Client) -> AsyncIterator[Subscriber]:
    """Listen with ``client``, which must know the trusted keys, while the block runs.

    :raises BusError: when the bus does not answer.
    """
    subscriber = Subscriber()
    revocations, results, events = client.revocations(DURABLE), client.results(), client.events(from_start=True)
    for subscription in (revocations, results, events):
        await subscription.start()
    tasks = [
        asyncio.create_task(_hear(revocations, subscriber.revocations)),
        asyncio.create_task(_hear(results, subscriber.results)),
        asyncio.create_task(_hear(events, subscriber.events)),
    ]
    try:
        yield subscriber
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def now_ms() -> float:
    """Return the Unix time in milliseconds."""
    return time.time() * 1000


async def _hear(subscription: Subscription[_A], heard: list[Heard[_A]]) -> None:
    async for item in subscription:
        heard.append(Heard(now_ms(), item))
        await item.ack()


def _newest(heard: list[Heard[_A]], wanted: Callable[[Heard[_A]], bool]) -> Heard[_A] | None:
    return next((each for each in reversed(heard) if wanted(each)), None)
