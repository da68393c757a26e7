"""The record as a worker reads it back: only events and results that a verifier has signed, none from another life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attestream.bus.connection import Bus
from attestream.bus.stored import Stored, get_batch, last_messages
from attestream.errors import RefusedError
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError
from schemas.events import Event, EventKind, Result
from services.verifier.journal import Order
from services.verifier.lease import Fence
from services.verifier.store import Row
from services.verifier.tail import LONGEST, Tail

log = logging.getLogger(__name__)

LOOK_BACK: Final = 64
"""Messages of one subject that are looked at behind the last one that is not believed."""

AT_ONCE: Final = 32
"""Results whose signatures are verified in a row: a worker that stands still for long loses its partitions."""

_EVENT: Final = Decoder[Event](Event)
_RESULT: Final = Decoder[Result](Result)


async def last_event(bus: Bus, kind: EventKind, name: str) -> Event | None:
    """Return the last event of ``kind`` about ``name`` (an agent or a policy) that a verifier has signed."""
    for stored in await last_messages(bus, topology.EVENTS.name, [subjects.event(kind, name)]):
        return await _believed(bus, stored)
    return None


async def last_events(bus: Bus, tail: Tail, agent_ids: list[str], since: int | None, fence: Fence) -> list[Stored]:
    """Return the last event of each kind about each agent, in order: at least those behind sequence ``since``.

    All that was stored before ``fence`` was taken is among them, whichever replica of the stream answers.
    """
    if not agent_ids:
        return []
    if since is not None and fence.token - since <= LONGEST:
        return await tail.read(since, fence.token, [subjects.token(id_) for id_ in agent_ids])
    patterns = [subjects.events_of(id_) for id_ in agent_ids]
    return await last_messages(bus, topology.EVENTS.name, patterns, reached=fence.event_guard)


async def newer_events(
    bus: Bus, rows: Mapping[str, Row], last: Iterable[Stored]
) -> tuple[dict[str, Event], dict[str, Order]]:
    """Return, of each agent that has any, its newest event that its row does not know of, and the newest order among those.

    ``last`` are the last events of each kind.

    An event that ended an agent is told of even if the row knows it: what follows from it may not have been done.
    """
    newest: dict[str, Event] = {}
    orders: dict[str, tuple[int, Order]] = {}
    for stored in last:
        if not _promising(stored, rows):
            continue
        event = await _believed(bus, stored)
        row = rows.get(event.agent_id) if event is not None else None
        if event is None or row is None or not _is_news(event, row, checked=bus.trust.checked):
            continue
        known = newest.get(row.agent_id)
        # Of two with one number the receipt of the first was lost: its maker went on as if it were not there.
        if known is None or known.event_number <= event.event_number:
            newest[row.agent_id] = event
        if event.command_id and orders.get(row.agent_id, (0,))[0] <= event.event_number:
            orders[row.agent_id] = event.event_number, order_of(event)
    return newest, {agent_id: order for agent_id, (_, order) in orders.items()}


async def expiries(bus: Bus, agent_ids: list[str]) -> dict[str, int]:
    """Return when the result of each agent that has or had one expires (Unix ms).

    What is no result of a verifier counts as lapsed when it was stored: nobody relies on it.
    """
    by_subject = {subjects.result(agent_id): agent_id for agent_id in agent_ids}
    found: dict[str, int] = {}
    for count, stored in enumerate(await last_messages(bus, topology.RESULTS.name, list(by_subject))):
        if count % AT_ONCE == 0:
            await asyncio.sleep(0)
        agent_id = by_subject[stored.subject]
        found[agent_id] = stored.at
        if not stored.data or stored.marker:
            continue
        try:
            result = _RESULT.decode(stored.data)
            await bus.trust.author_of(stored)
            if result.agent_id == agent_id:
                found[agent_id] = result.expires_at
        except (SchemaError, RefusedError) as error:
            log.error("the result of %s is not believed: %s", agent_id, error)
    return found


def order_of(event: Event) -> Order:
    """Return the order that led to ``event``."""
    return Order(id=event.command_id, at=event.command_at, actor=event.actor, key_id=event.actor_key)


def _promising(stored: Stored, rows: Mapping[str, Row]) -> bool:
    """Return whether a signature is worth being verified: most of what is stored was known to the row."""
    try:
        event = _EVENT.decode(stored.data)
    except SchemaError:
        return True
    row = rows.get(event.agent_id)
    return row is None or event.event_number > row.event_number or event.kind is EventKind.DELETED


def _is_news(event: Event, row: Row, *, checked: bool) -> bool:
    if not event.event_number or event.kind is EventKind.REFUSED:
        return False
    if checked and event.id != f"{row.agent_id}:{row.incarnation}:{event.event_number}":
        return False
    return event.event_number > row.event_number or (
        event.kind is EventKind.DELETED and event.event_number == row.event_number
    )


async def _believed(bus: Bus, stored: Stored) -> Event | None:
    """Return the event in ``stored``, or the last before it on its subject that is one and that its maker has signed."""
    for _ in range(LOOK_BACK):
        try:
            event = _EVENT.decode(stored.data)
            await bus.trust.author_of(stored)
            if subjects.event(event.kind, event.agent_id) == stored.subject:
                return event
            log.error("event %d on %s is about %s: not believed", stored.sequence, stored.subject, event.agent_id)
        except (SchemaError, RefusedError) as error:
            # It must not keep the partition from being opened, by this worker and every other.
            log.error("event %d on %s is not believed: %s", stored.sequence, stored.subject, error)
        if stored.sequence <= 1:
            return None
        request: dict[str, Any] = {"multi_last": [stored.subject], "up_to_seq": stored.sequence - 1, "batch": 1}
        earlier = (await get_batch(bus, topology.EVENTS.name, request)).messages
        if not earlier:
            return None
        stored = earlier[0]
    return None
