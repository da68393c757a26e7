"""Agents that were put under attestation and that the verifiers' database does not know: it is older than the record.

The record tells how each was attested, so that it can be added again; nobody is trusted by that.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec

from attestream.client.verification import believed
from schemas import subjects
from schemas.base import Decoder, SchemaError
from schemas.commands import Attestation
from schemas.events import Event, EventKind, Standing
from schemas.topology import EVENTS

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

SETTLED_MS: Final = 60_000
"""An agent that was added less than so long ago may have its row yet to come."""

_ENDING: Final = (EventKind.FAILED, EventKind.STOPPED, EventKind.DELETED)
_EVENT: Final = Decoder[Event](Event)


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What the record tells of one such agent."""

    agent_id: str
    standing: Standing
    """After its last event; ``unknown`` when one is not believed that may hide how it ended."""
    attestation: Attestation
    """How it was attested, as far as that is told."""
    untold: bool
    """Whether the interval and the lease of ``attestation`` are only defaults."""

    @property
    def ended(self) -> bool:
        """Whether somebody has to decide about it: it had failed, or was stopped, or may have been."""
        return self.standing in (Standing.FAILED, Standing.STOPPED, Standing.UNKNOWN)


async def forgotten(bus: Bus, agent_ids: Collection[str], now: int) -> list[str]:
    """Return those of ``agent_ids`` that a verifier has put under attestation, and none has deleted since."""
    from attestream.bus.stored import last_messages

    last: dict[str, int] = {}
    for kind in (EventKind.ADDED, EventKind.DELETED):
        subject_of = {subjects.event(kind, agent_id): agent_id for agent_id in agent_ids}
        stored, _ = await believed(bus, await last_messages(bus, EVENTS.name, list(subject_of)))
        for message in stored:
            if not message.data:
                # Nobody has signed that.
                continue
            agent_id = subject_of[message.subject]
            if kind is EventKind.ADDED and message.at < now - SETTLED_MS:
                last[agent_id] = message.sequence
            elif kind is EventKind.DELETED and message.sequence > last.get(agent_id, 0):
                last.pop(agent_id, None)
    return sorted(last)


async def told(bus: Bus, agent_ids: Collection[str]) -> list[Forgotten]:
    """Return what the record tells of ``agent_ids``, in their order; nothing of those on which it is silent.

    :raises BusError: the bus does not answer.
    """
    from attestream.bus.stored import last_messages

    patterns = [subjects.events_of(agent_id) for agent_id in agent_ids]
    stored, rejected = await believed(bus, await last_messages(bus, EVENTS.name, patterns) if patterns else [])
    lives: dict[str, Forgotten] = {}
    for message in stored:
        try:
            event = _EVENT.decode(message.data)
        except SchemaError:
            continue
        if not event.event_number or subjects.event(event.kind, event.agent_id) != message.subject:
            continue
        before = lives.get(event.agent_id)
        if event.interval_ms:
            attestation = Attestation(policy=event.policy, interval_ms=event.interval_ms, lease_ms=event.lease_ms)
        elif before is None or event.kind is EventKind.ADDED:
            attestation = Attestation(policy=event.policy)
        else:
            attestation = msgspec.structs.replace(before.attestation, policy=event.policy or before.attestation.policy)
        untold = not event.interval_ms and (before is None or event.kind is EventKind.ADDED or before.untold)
        lives[event.agent_id] = Forgotten(
            agent_id=event.agent_id, standing=event.standing, attestation=attestation, untold=untold
        )
    hidden = set(rejected)
    for agent_id, life in lives.items():
        if hidden and not hidden.isdisjoint(subjects.event(kind, agent_id) for kind in _ENDING):
            lives[agent_id] = msgspec.structs.replace(life, standing=Standing.UNKNOWN)
    return [lives[agent_id] for agent_id in agent_ids if agent_id in lives]
