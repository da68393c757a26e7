"""The verifier's table: one row per agent under attestation, written behind in batches and fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.appraisal.state import decode_state
from attestream.database import reading, transaction
from attestream.database.statements import upsert_fenced
from schemas.commands import AgentStatus
from schemas.events import Finding, Standing
from services.verifier.snapshots import Mark

METADATA = sa.MetaData()

ATTESTERS = sa.Table(
    "verifier_attesters",
    METADATA,
    sa.Column("agent_id", sa.String(80), primary_key=True),
    sa.Column("partition", sa.SmallInteger, nullable=False, index=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("policy", sa.String(80), nullable=False),
    sa.Column("interval_ms", sa.Integer, nullable=False),
    sa.Column("lease_ms", sa.Integer, nullable=False),
    sa.Column("enrolment", sa.Integer, nullable=False),
    sa.Column("identity", sa.LargeBinary, nullable=False),
    sa.Column("standing", sa.String(16), nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
    sa.Column("accepted", sa.BigInteger, nullable=False),
    sa.Column("incarnation", sa.String(64), nullable=False),
    sa.Column("event_number", sa.Integer, nullable=False),
    sa.Column("last_command", sa.String(64), nullable=False),
    sa.Column("commanded_at", sa.BigInteger, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
    sa.Column("findings", sa.LargeBinary, nullable=False),
)

SNAPSHOTS = sa.Table(
    "verifier_snapshots",
    METADATA,
    sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)

TOMBSTONES = sa.Table(
    "verifier_tombstones",
    METADATA,
    sa.Column("agent_id", sa.String(80), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    # When the last command about the agent was signed, Unix ms.
    sa.Column("commanded_at", sa.BigInteger, nullable=False, index=True),
)

TOMBSTONE_MS = 2 * 86_400_000
"""How long a deleted agent's tombstone stays, in milliseconds: longer than any command counts."""

BATCH = 500
"""Rows in one statement, which is one transaction and one round trip."""


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """A row of :data:`ATTESTERS`."""

    agent_id: str
    partition: int
    fence: int
    policy: str
    interval_ms: int
    lease_ms: int
    enrolment: int
    identity: bytes
    """Keys that the registrar has proven (:mod:`services.verifier.identities`)."""
    standing: str
    state: bytes
    accepted: int
    incarnation: str
    event_number: int
    last_command: str
    last_at: int
    findings: bytes
    commanded_at: int = 0
    """When the last command about the agent was signed, Unix ms."""

    def status(self) -> AgentStatus:
        """Return what is told of an agent that another worker owns."""
        return AgentStatus(
            agent_id=self.agent_id,
            standing=Standing(self.standing),
            policy=self.policy,
            interval_ms=self.interval_ms,
            lease_ms=self.lease_ms,
            enrolment=self.enrolment,
            seq=self.accepted,
            attestations=0,
            ima_entries=decode_state(self.state).ima_entries,
            event_number=self.event_number,
            last_at=self.last_at,
            findings=unpack_findings(self.findings),
        )


class Snapshot(msgspec.Struct, frozen=True):
    """A partition as the database has it."""

    rows: list[Row]
    mark: Mark | None
    """Not newer than the rows."""


class Store:
    """The rows of all partitions. Every write carries the fence of its partition; an older one changes nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Built once: it costs more than to write a few rows.
        self._upsert = upsert_fenced(engine.dialect.name, ATTESTERS, fence="fence")
        self._bury = upsert_fenced(engine.dialect.name, TOMBSTONES, fence="fence")
        self._upsert_mark = upsert_fenced(engine.dialect.name, SNAPSHOTS, fence="fence")
        self._asked: dict[int, list[asyncio.Future[Snapshot]]] = {}
        self._answering: asyncio.Task[None] | None = None

    async def partition(self, partition: int) -> Snapshot:
        """Return what there is of ``partition``. Calls for several that wait at the same time become one query.

        :raises StorageError: when the database does not answer.
        """
        answer: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(partition, []).append(answer)
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await answer

    async def agent(self, agent_id: str) -> Row | None:
        """Return the row of ``agent_id``."""
        rows = await self._rows(sa.select(ATTESTERS).where(ATTESTERS.c.agent_id == agent_id))
        return rows[0] if rows else None

    async def page(self, after: str, limit: int) -> list[Row]:
        """Return up to ``limit`` rows with ids greater than ``after``, in order."""
        query = sa.select(ATTESTERS).where(ATTESTERS.c.agent_id > after).order_by(ATTESTERS.c.agent_id).limit(limit)
        return await self._rows(query)

    async def save(self, rows: Sequence[Row], marks: Sequence[Mark] = ()) -> None:
        """Insert or update ``rows``, except where the stored fence is newer: :data:`BATCH` of them in one statement.

        ``marks`` are written with the last of them. Each batch is a transaction: a worker that is stopped inside a long one
        would keep a SQLite file from the others.

        :raises StorageError: when the database does not take a batch; the further ones are not written then.
        """
        # In one order for everybody: two owners that lock the same rows crosswise would end in a deadlock.
        ordered = [msgspec.structs.asdict(row) for row in sorted(rows, key=lambda row: row.agent_id)]
        known = [msgspec.structs.asdict(mark) for mark in sorted(marks, key=lambda mark: mark.partition)]
        for start in range(0, max(len(ordered), bool(known)), BATCH):
            async with transaction(self._engine) as connection:
                if ordered:
                    await connection.execute(self._upsert, ordered[start : start + BATCH])
                if known and start + BATCH >= len(ordered):
                    await connection.execute(self._upsert_mark, known)

    async def delete(self, agent_id: str, fence: int, *, commanded_at: int = 0, now: int = 0) -> None:
        """Remove the row of ``agent_id`` unless a newer fence has written it, and remember ``commanded_at``.

        The record tells of the end, too, but the bus can hide it: an old command must not bring the agent back then.

        :param commanded_at: when the last command about it was signed, Unix ms; 0 where nothing is signed.
        """
        async with transaction(self._engine) as connection:
            await connection.execute(
                sa.delete(ATTESTERS).where(ATTESTERS.c.agent_id == agent_id, ATTESTERS.c.fence <= fence)
            )
            if commanded_at:
                tombstone = {"agent_id": agent_id, "fence": fence, "commanded_at": commanded_at}
                await connection.execute(self._bury, [tombstone])
                await connection.execute(sa.delete(TOMBSTONES).where(TOMBSTONES.c.commanded_at < now - TOMBSTONE_MS))

    async def ended_at(self, agent_id: str) -> int:
        """Return when the last command about a deleted agent was signed, Unix ms; 0 when nothing is left of it."""
        query = sa.select(TOMBSTONES.c.commanded_at).where(TOMBSTONES.c.agent_id == agent_id)
        async with reading(self._engine) as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0

    async def _answer(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            waiting = [(partition, answer) for partition, answers in asked.items() for answer in answers]
            try:
                found = await self._snapshots(list(asked))
            except Exception as error:  # noqa: BLE001  # whatever it is, it is raised where the rows are waited for
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for partition, answer in waiting:
                    if not answer.done():
                        answer.set_result(found[partition])

    async def _snapshots(self, partitions: list[int]) -> dict[int, Snapshot]:
        async with reading(self._engine) as connection:
            # Marks first: a mark that is newer than the rows would hide events that they lack.
            marks = await connection.execute(sa.select(SNAPSHOTS).where(SNAPSHOTS.c.partition.in_(partitions)))
            known = {mark["partition"]: Mark(**mark) for mark in marks.mappings()}
            found = {partition: Snapshot([], known.get(partition)) for partition in partitions}
            rows = await connection.execute(sa.select(ATTESTERS).where(ATTESTERS.c.partition.in_(partitions)))
            for count, row in enumerate(rows.mappings()):
                if count % BATCH == 0:
                    await asyncio.sleep(0)
                found[row["partition"]].rows.append(Row(**row))
        return found

    async def _rows(self, query: sa.Select[tuple[object, ...]]) -> list[Row]:
        async with reading(self._engine) as connection:
            return [Row(**row) for row in (await connection.execute(query)).mappings()]


def pack_findings(findings: list[Finding]) -> bytes:
    """Return ``findings`` as they are kept in a row."""
    return msgspec.msgpack.encode(findings)


def unpack_findings(data: bytes) -> list[Finding]:
    """Return the findings of a row."""
    return msgspec.msgpack.decode(data, type=list[Finding])
