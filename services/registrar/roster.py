"""The roster of keys: handed in by an admin, published, vouched for, and each change of it put on the record.

What is on the record is compared with the roster itself, whoever has written that: nothing that counts stays unrecorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.bus import keyvalue
from attestream.bus.connection import Bus
from attestream.bus.serving import Endpoint
from attestream.bus.stored import last_messages
from attestream.clock import unix_ms
from attestream.database import transaction
from attestream.database.statements import insert_missing
from attestream.errors import AttestreamError, FencedError, RefusedError, StaleRosterError, SupersededError
from attestream.trust import roster as rosters
from attestream.trust.authority import CHANGE_ROSTER
from attestream.trust.freshness import VOUCH_S
from attestream.trust.keyring import ANYBODY, Author
from attestream.trust.roots import successions
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError, encode
from schemas.enrolment import Done
from schemas.events import Event, EventKind, Signed
from schemas.roles import Role
from schemas.trust import RosterKey
from services.registrar import outbox
from services.registrar.tables import roster as roster_table

LOOK_S: Final = 1.0
"""Seconds between two looks whether the roster is another one."""

_ATTEMPTS: Final = 5

_ADDED: Final = (EventKind.KEY_ADDED, EventKind.OPERATOR_ADDED)
_REVOKED: Final = (EventKind.KEY_REVOKED, EventKind.OPERATOR_REVOKED)
_ROSTER: Final = (EventKind.ROSTER_ROOT, EventKind.ROSTER_APPROVALS)
_EVENT: Final = Decoder[Event](Event)
_log = logging.getLogger(__name__)


class RosterKeeper:
    """Keeps the roster on the bus, for one registrar."""

    def __init__(self, bus: Bus, engine: AsyncEngine, clock: Callable[[], int], recorded: Callable[[], None]) -> None:
        self._bus = bus
        self._engine = engine
        self._clock = clock
        self._recorded = recorded
        self._lock = asyncio.Lock()

    async def serve(self, queue: str) -> Endpoint:
        """Take rosters from admins from now on."""
        return await self._bus.serve(
            subjects.REGISTRAR_ROSTER, queue, Signed, self.change, signed=True, authorise=CHANGE_ROSTER
        )

    async def change(self, signed: Signed, author: Author) -> Done:
        """Make ``signed`` the roster of the installation. The root key must have signed it, ``author`` only hands it in.

        :raises SignatureError: no root key has signed it, or it belongs to another installation.
        :raises SupersededError: the roster is as new already.
        :raises BusError: the bus does not take it.
        """
        trust = self._bus.trust
        before = trust.keyring.version
        async with self._lock:
            if not trust.take(encode(signed)) or trust.keyring.version == before:
                raise SupersededError(
                    f"the roster has version {trust.keyring.version} already",
                    remedy="Make the change again on the newest one.",
                )
            # From here on no registrar vouches for an older one.
            await self._agree()
            await self._reconcile(author)
            await self.publish()
        return Done()

    async def publish(self) -> None:
        """Put the newest roster on the bus, with this registrar's word that it is that, unless one's word is there already.

        :raises StaleRosterError: another registrar has seen a newer one, which the bus does not show.
        :raises BusError: the bus does not take it.
        :raises FencedError: others have written it all the time.
        """
        bucket, key = topology.CLUSTER.name, topology.KEY_ROSTER
        for attempt in range(_ATTEMPTS):
            there = await keyvalue.get(self._bus, bucket, key)
            if there is not None and self._is_vouched(there):
                return
            await self._agree()
            data, revision = self._bus.trust.roster_bytes, there.revision if there is not None else 0
            try:
                await keyvalue.put(self._bus, bucket, key, data, expected=revision, sign=True)
            except FencedError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _is_vouched(self, there: keyvalue.Entry) -> bool:
        """Take the roster in ``there`` if it is newer, and return whether a registrar has vouched for it of late."""
        trust = self._bus.trust
        try:
            trust.take(there.value)
        except AttestreamError as error:
            _log.error("the roster on the bus is not believed, and replaced: %s", error.message)
        return there.value == trust.roster_bytes and unix_ms() - trust.vouched_at(there) < VOUCH_S * 1000

    async def _agree(self) -> None:
        """Note which roster is the newest where all registrars look.

        :raises StaleRosterError: another registrar has seen a newer one.
        """
        keyring = self._bus.trust.keyring
        row = {"installation": keyring.installation, "version": keyring.version}
        this = roster_table.c.installation == keyring.installation
        async with transaction(self._engine) as connection:
            await connection.execute(insert_missing(connection.dialect.name, roster_table, row, key="installation"))
            newest = (await connection.execute(select(roster_table.c.version).where(this).with_for_update())).scalar_one()
            if newest < keyring.version:
                await connection.execute(update(roster_table).where(this).values(version=keyring.version))
        if newest > keyring.version:
            raise StaleRosterError(
                f"another registrar has seen roster {newest}, and the bus shows this one no newer than {keyring.version}"
            )

    async def run(self) -> None:
        """Put every change of the roster on the record, vouch for the newest, and put it back on a bus that has lost it; for
        ever."""
        known, vouched = -1, 0
        while True:
            try:
                version, now = self._bus.trust.keyring.version, unix_ms()
                if version != known or abs(now - vouched) >= VOUCH_S * 1000:
                    async with self._lock:
                        await self.publish()
                        if version != known:
                            await self._reconcile(ANYBODY)
                    known, vouched = version, now
            except StaleRosterError as error:
                _log.error("this registrar does not vouch for the roster: %s", error.message)
            except AttestreamError as error:
                _log.warning("the roster is not published or recorded yet: %s", error.message)
            await asyncio.sleep(LOOK_S)

    async def _reconcile(self, author: Author) -> None:
        recorded = await self._on_record()
        missing = [
            (kind, key)
            for kind, key in rosters.differences(None, self._bus.trust.keyring.roster)
            if (kind, key.key_id) not in recorded
        ]
        missing += self._left_out(recorded)
        events = [self._event(kind, key, author) for kind, key in missing]
        events += self._successions(recorded, author)
        if (approvals := self._approvals(recorded, author)) is not None:
            events.append(approvals)
        if not events:
            return
        async with transaction(self._engine) as connection:
            await outbox.add(connection, *events)
        self._recorded()
        _log.info("%d changes of the roster are put on the record", len(events))

    def _left_out(self, recorded: dict[tuple[EventKind, str], Event]) -> list[tuple[EventKind, RosterKey]]:
        """Return the end of each key that was added once and that the roster says nothing about any more."""
        keyring = self._bus.trust.keyring
        ended = {key_id for kind, key_id in recorded if kind in _REVOKED}
        found = []
        for (kind, key_id), event in recorded.items():
            if kind in _ADDED and key_id not in ended and keyring.entry(key_id) is None:
                role, _, name = event.detail.partition(" ")
                key = RosterKey(key_id=key_id, role=Role(role), name=name, public_key="")
                found.append((_REVOKED[_ADDED.index(kind)], key))
        return found

    async def _on_record(self) -> dict[tuple[EventKind, str], Event]:
        filters = [subjects.events_of_kind(kind) for kind in (*_ADDED, *_REVOKED, *_ROSTER)]
        found = {}
        for stored in await last_messages(self._bus, topology.EVENTS.name, filters):
            try:
                await self._bus.trust.author_of(stored)
                event = _EVENT.decode(stored.data)
            except (RefusedError, SchemaError) as error:
                _log.error("event %d on %s is not believed: %s", stored.sequence, stored.subject, error)
                continue
            found[event.kind, event.agent_id] = event
        return found

    def _event(self, kind: EventKind, key: RosterKey, author: Author) -> Event:
        return Event(
            id=f"{kind}:{key.key_id}",
            kind=kind,
            agent_id=key.key_id,
            at=self._clock(),
            # What nobody has handed in still tells who made it, under the root key's signature.
            actor=author.name or key.changed_by,
            actor_key=author.key_id,
            detail=f"{key.role} {key.name}",
        )

    def _successions(self, recorded: dict[tuple[EventKind, str], Event], author: Author) -> list[Event]:
        """Return what has to be recorded about root keys that have given their place to others."""
        return [
            Event(
                id=f"{EventKind.ROSTER_ROOT}:{new}",
                kind=EventKind.ROSTER_ROOT,
                agent_id=new,
                at=self._clock(),
                actor=author.name,
                actor_key=author.key_id,
                detail=f"in the place of {old}",
            )
            for old, new in successions(self._bus.trust.keyring.roster)
            if (EventKind.ROSTER_ROOT, new) not in recorded
        ]

    def _approvals(self, recorded: dict[tuple[EventKind, str], Event], author: Author) -> Event | None:
        """Return what has to be recorded about how many people a policy needs, if it was changed."""
        roster = self._bus.trust.keyring.roster
        last = recorded.get((EventKind.ROSTER_APPROVALS, roster.installation))
        if (last.detail if last is not None else "1") == str(roster.policy_approvals):
            return None
        return Event(
            id=f"{EventKind.ROSTER_APPROVALS}:{roster.installation}:{roster.version}",
            kind=EventKind.ROSTER_APPROVALS,
            agent_id=roster.installation,
            at=self._clock(),
            actor=author.name or roster.approvals_by,
            actor_key=author.key_id,
            detail=str(roster.policy_approvals),
        )
