"""Pending enrolment challenges: in the database, so that any replica can judge the proof; used once, few and short-lived."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.registrar.admission import Admitted
from services.registrar.tables import CLAIMS, challenge

MAX_PER_AGENT: Final = 8
"""Pending challenges of one agent id. A further one replaces the oldest, so that a flood can not lock the agent out."""

MAX_PENDING: Final = 10_000
"""Pending challenges in all, kept to by :func:`sweep`; the oldest go first."""


class Pending(msgspec.Struct, frozen=True):
    """A challenge that was taken to be judged."""

    expires_at: int
    proof_digest: bytes
    """SHA-256 of the awaited proof."""
    bus_key: str
    """Public NKey that an identity on the bus is wanted for; empty: none."""
    claims: dict[str, Any]
    """Value of each column of :data:`services.registrar.tables.CLAIMS`."""


async def add(
    connection: AsyncConnection,
    *,
    challenge_id: bytes,
    agent_id: str,
    now: int,
    expires_at: int,
    proof_digest: bytes,
    admitted: Admitted,
    transport_key: bytes,
    bus_key: str,
) -> None:
    """Store a challenge, and forget the agent's oldest ones beyond :data:`MAX_PER_AGENT`."""
    # As a derived table: MySQL takes no LIMIT in the subquery itself.
    kept = (
        select(challenge.c.challenge_id)
        .where(challenge.c.agent_id == agent_id)
        .order_by(challenge.c.issued_at.desc(), challenge.c.challenge_id)
        .limit(MAX_PER_AGENT - 1)
        .subquery()
    )
    await connection.execute(
        delete(challenge).where(
            challenge.c.agent_id == agent_id, challenge.c.challenge_id.not_in(select(kept.c.challenge_id))
        )
    )
    await connection.execute(
        insert(challenge).values(
            challenge_id=challenge_id,
            agent_id=agent_id,
            issued_at=now,
            expires_at=expires_at,
            proof_digest=proof_digest,
            ek_public=admitted.ek.tpm2b,
            ek_certificate=admitted.ek_certificate,
            ek_trust=admitted.ek_trust,
            findings=msgspec.msgpack.encode(admitted.findings),
            ak_public=admitted.ak.tpm2b,
            ak_name=admitted.ak.name,
            transport_key=transport_key,
            bus_key=bus_key,
        )
    )


async def take(connection: AsyncConnection, challenge_id: bytes, agent_id: str) -> Pending | None:
    """Remove the challenge and return it; ``None`` when the agent has no such challenge. Of two takers one gets it."""
    # Not DELETE ... RETURNING: MySQL has none.
    this = (challenge.c.challenge_id == challenge_id, challenge.c.agent_id == agent_id)
    row = (await connection.execute(select(challenge).where(*this).with_for_update())).mappings().one_or_none()
    if row is None:
        return None
    await connection.execute(delete(challenge).where(*this))
    claims = {name: row[name] for name in CLAIMS}
    return Pending(expires_at=row["expires_at"], proof_digest=row["proof_digest"], bus_key=row["bus_key"], claims=claims)


async def forget(connection: AsyncConnection, agent_id: str) -> None:
    """Remove every challenge of an agent."""
    await connection.execute(delete(challenge).where(challenge.c.agent_id == agent_id))


async def sweep(connection: AsyncConnection, *, now: int, most: int = MAX_PENDING) -> int:
    """Remove the expired challenges and the oldest beyond ``most``; return how many are left."""
    await connection.execute(delete(challenge).where(challenge.c.expires_at < now))
    left = (await connection.execute(select(func.count()).select_from(challenge))).scalar_one()
    if left <= most:
        return int(left)
    oldest = select(challenge.c.challenge_id).order_by(challenge.c.issued_at).limit(left - most).subquery()
    await connection.execute(delete(challenge).where(challenge.c.challenge_id.in_(select(oldest.c.challenge_id))))
    return most
