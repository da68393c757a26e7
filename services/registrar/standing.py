"""Whether an agent may have an identity on the bus: what the record says, and what of it is kept here.

The last deciding event counts. A failure or a deletion blocks the agent; only what an operator does lifts the block. Under a
policy that lets agents recover by themselves a failure does not block. An agent of which the record tells nothing of this
kind is not blocked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.bus.stored import Stored, get_batch
from attestream.database.statements import insert_missing
from attestream.errors import AttestreamError, BusError
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError
from schemas.events import Event, EventKind
from services.registrar.tables import standing

_log = logging.getLogger(__name__)
_EVENT: Final = Decoder[Event](Event)

BLOCKING: Final = (EventKind.FAILED, EventKind.DELETED, EventKind.IDENTITY_DELETED)
LIFTING: Final = (EventKind.ADDED, EventKind.UPDATED, EventKind.STARTED, EventKind.RECOVERED)
DECIDING: Final = (*BLOCKING, *LIFTING)
_CLEARING: Final = (EventKind.IDENTITY_DELETED,)
"""Those that block, and end what a failure means to the agent's machine."""

_KEEP: Final = update(standing).where(standing.c.agent_id == bindparam("agent"))
"""To be executed with decisions, each with its ``agent``."""


class Decision(NamedTuple):
    """What an event has decided. Later ones in the stream are greater."""

    sequence: int
    blocked: bool
    reason: str
    """The event's kind."""
    failed: bool = False
    """Whether the agent has failed, and neither was let in again nor had its enrolment removed since."""

    def after(self, record: Decision) -> Decision:
        """Return what has been decided when ``record`` is what the record says; it may lag behind this."""
        last = max(self, record)
        # A deletion says nothing of a failure before it.
        return last._replace(failed=record.failed) if last.reason == EventKind.DELETED else last

    @property
    def objection(self) -> str:
        """Why the agent gets no identity; empty when it does."""
        return f"its last word on the record is {self.reason!r}" if self.blocked else ""


UNDECIDED: Final = Decision(0, False, "")


def decided_by(kind: EventKind, sequence: int, *, recovery: str = "") -> Decision:
    """Return what an event of a deciding kind means; ``recovery`` is the event's. A failure that the next good appraisal
    ends decides nothing: who is off the bus can not be appraised."""
    if kind is EventKind.FAILED and recovery == "automatic":
        return UNDECIDED
    return Decision(sequence, kind in BLOCKING, str(kind), kind is EventKind.FAILED)


async def on_record(bus: Bus, agent_id: str) -> Decision:
    """Return what the last deciding event about an agent says.

    :raises BusError: the record can not be read.
    """
    return (await all_on_record(bus, [agent_id]))[0]


async def all_on_record(bus: Bus, agent_ids: Sequence[str]) -> list[Decision]:
    """Return what the last deciding event about each agent says, with one question to the stream.

    :raises BusError: the record can not be read.
    """
    wanted = {subjects.event(kind, agent_id): (agent_id, kind) for agent_id in agent_ids for kind in DECIDING}
    batch = await get_batch(bus, topology.EVENTS.name, {"multi_last": list(wanted), "batch": 2 * len(wanted)})
    if not batch.whole:
        if len(agent_ids) == 1:
            raise BusError(f"the record about {agent_ids[0]} does not come whole")
        half = len(agent_ids) // 2
        return [*await all_on_record(bus, agent_ids[:half]), *await all_on_record(bus, agent_ids[half:])]
    found: dict[str, list[Decision]] = {}
    for one in batch.messages:
        agent_id, kind = wanted[one.subject]
        found.setdefault(agent_id, [UNDECIDED]).append(await _believed(bus, kind, one))
    return [_whole(found.get(agent_id, [UNDECIDED])) for agent_id in agent_ids]


def _whole(decisions: Sequence[Decision]) -> Decision:
    """Return what the last events of each kind come to."""
    failed = max((one.sequence for one in decisions if one.failed), default=0)
    cleared = max((one.sequence for one in decisions if not one.blocked or one.reason in _CLEARING), default=0)
    return max(decisions)._replace(failed=failed > cleared)


async def _believed(bus: Bus, kind: EventKind, event: Stored) -> Decision:
    """Return what an event has decided. One that is not signed by whoever may lifts nothing, but it blocks:
    it may hide another."""
    try:
        await bus.trust.author_of(event)
        recovery = _EVENT.decode(event.data).recovery if kind is EventKind.FAILED else ""
    except (AttestreamError, SchemaError) as error:
        _log.warning("event %d on %s is not believed: %s", event.sequence, event.subject, error)
        return decided_by(kind, event.sequence) if kind in BLOCKING else UNDECIDED
    return decided_by(kind, event.sequence, recovery=recovery)


async def kept(connection: AsyncConnection, agent_id: str) -> Decision:
    """Return what was kept of the last deciding event, under a lock until the transaction ends."""
    return (await all_kept(connection, [agent_id])).get(agent_id, UNDECIDED)


async def all_kept(connection: AsyncConnection, agent_ids: Iterable[str]) -> dict[str, Decision]:
    """Return what was kept of the last deciding event about each agent, under locks until the transaction ends."""
    this = standing.c.agent_id.in_(set(agent_ids))
    rows = await connection.execute(select(standing).where(this).order_by(standing.c.agent_id).with_for_update())
    return {row.agent_id: Decision(row.sequence, row.blocked, row.reason, row.failed) for row in rows}


async def keep(connection: AsyncConnection, decisions: Sequence[tuple[str, Decision]]) -> list[bool]:
    """Keep what has been decided about agents, unless something later is there already; return whether each is new. Of
    several about one agent, each that is later than those before it is."""
    # Not by the count of rows that an insertion reports: PostgreSQL's driver reports none.
    ids = sorted({agent_id for agent_id, _ in decisions})
    rows = [{"agent_id": agent_id, **UNDECIDED._asdict()} for agent_id in ids]
    await connection.execute(insert_missing(connection.dialect.name, standing, key="agent_id"), rows)
    last, new = await all_kept(connection, ids), set[int]()
    for index in sorted(range(len(decisions)), key=lambda index: decisions[index][1].sequence):
        agent_id, decision = decisions[index]
        if decision.sequence > last[agent_id].sequence:
            last[agent_id] = decision
            new.add(index)
    if changed := sorted({decisions[index][0] for index in new}):
        await connection.execute(_KEEP, [{"agent": agent_id, **last[agent_id]._asdict()} for agent_id in changed])
    return [index in new for index in range(len(decisions))]


async def last_kept(connection: AsyncConnection) -> tuple[str, Decision]:
    """Return the latest decision that is kept, and whom it is about; nobody and :data:`UNDECIDED` when there is none."""
    row = (await connection.execute(select(standing).order_by(standing.c.sequence.desc()).limit(1))).one_or_none()
    return ("", UNDECIDED) if row is None else (row.agent_id, Decision(row.sequence, row.blocked, row.reason, row.failed))


async def is_of_this_record(bus: Bus, agent_id: str, decision: Decision) -> bool:
    """Return whether a decision that was kept can be one of the record that the bus has now, and not of one that is lost.

    :raises BusError: the record can not be read.
    """
    if not decision.sequence:
        return True
    info = await jetstream.call(bus, f"STREAM.INFO.{topology.EVENTS.name}", {})
    if decision.sequence > info["state"]["last_seq"]:
        return False
    request = {"seq": decision.sequence, "next_by_subj": ">", "batch": 1}
    found = (await get_batch(bus, topology.EVENTS.name, request)).messages
    # What has left the stream by its age says nothing.
    if not found or found[0].sequence != decision.sequence:
        return True
    return found[0].subject == subjects.event(decision.reason, agent_id)


async def begin_anew(connection: AsyncConnection) -> None:
    """Let any event be newer than what is kept: the stream counts from the start again."""
    await connection.execute(update(standing).values(sequence=0))
