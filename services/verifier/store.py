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


class Store:
    """The rows of all partitions. Every write carries the fence of its partition; an older one changes nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Built once: it costs more than to write a few rows.
        self._upsert = upsert_fenced(engine.dialect.name, ATTESTERS, fence="fence")
        self._asked: dict[int, list[asyncio.Future[list[Row]]]] = {}
        self._answering: asyncio.Task[None] | None = None

    async def partition(self, partition: int) -> list[Row]:
        """Return the rows of ``partition``. Calls for several that wait at the same time become one query.

        :raises StorageError: when the database does not answer.
        """
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
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

    async def save(self, rows: Sequence[Row]) -> None:
        """Insert or update ``rows``, except where the stored fence is newer: :data:`BATCH` of them in one statement.

        Each batch is a transaction: a worker that is stopped inside a long one would keep a SQLite file from the others.

        :raises StorageError: when the database does not take a batch; the further ones are not written then.
        """
        # In one order for everybody: two owners that lock the same rows crosswise would end in a deadlock.
        ordered = [msgspec.structs.asdict(row) for row in sorted(rows, key=lambda row: row.agent_id)]
        for start in range(0, len(ordered), BATCH):
            async with transaction(self._engine) as connection:
                await connection.execute(self._upsert, ordered[start : start + BATCH])

    async def delete(self, agent_id: str, fence: int) -> None:
        """Remove the row of ``agent_id`` unless a newer fence has written it."""
        async with transaction(self._engine) as connection:
            await connection.execute(
                sa.delete(ATTESTERS).where(ATTESTERS.c.agent_id == agent_id, ATTESTERS.c.fence <= fence)
            )

    async def _answer(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            waiting = [(partition, answer) for partition, answers in asked.items() for answer in answers]
            found: dict[int, list[Row]] = {partition: [] for partition in asked}
            try:
                for row in await self._rows(sa.select(ATTESTERS).where(ATTESTERS.c.partition.in_(asked))):
                    found[row.partition].append(row)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is raised where the rows are waited for
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for partition, answer in waiting:
                    if not answer.done():
                        answer.set_result(found[partition])

    async def _rows(self, query: sa.Select[tuple[object, ...]]) -> list[Row]:
        async with reading(self._engine) as connection:
            return [Row(**row) for row in (await connection.execute(query)).mappings()]


def pack_findings(findings: list[Finding]) -> bytes:
    """Return ``findings`` as they are kept in a row."""
    return msgspec.msgpack.encode(findings)


def unpack_findings(data: bytes) -> list[Finding]:
    """Return the findings of a row."""
    return msgspec.msgpack.decode(data, type=list[Finding])
