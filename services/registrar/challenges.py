"""Pending enrolment challenges: in the database, so that any replica can judge the proof; used once, few and short-lived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.registrar.admission import Admitted
from services.registrar.machines import key_digest
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


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A challenge that is about to be sent."""

    challenge_id: bytes
    agent_id: str
    issued_at: int
    expires_at: int
    proof_digest: bytes
    admitted: Admitted
    transport_key: bytes
    bus_key: str

    def row(self) -> dict[str, Any]:
        """Return it as it is stored."""
        admitted = self.admitted
        return {
            "challenge_id": self.challenge_id,
            "agent_id": self.agent_id,
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
            "proof_digest": self.proof_digest,
            "ek_public": admitted.ek.tpm2b,
            "ek_certificate": admitted.ek_certificate,
            "ek_trust": admitted.ek_trust,
            "findings": msgspec.msgpack.encode(admitted.findings),
            "ak_public": admitted.ak.tpm2b,
            "ak_name": admitted.ak.name,
            "transport_key": self.transport_key,
            "bus_key": self.bus_key,
            "ek_digest": key_digest(admitted.machine.tpm2b),
        }


async def add(connection: AsyncConnection, issued: Sequence[Issued]) -> None:
    """Store challenges, and forget the oldest ones of each agent beyond :data:`MAX_PER_AGENT`."""
    if not issued:
        return
    query = (
        select(challenge.c.agent_id, challenge.c.challenge_id)
        .where(challenge.c.agent_id.in_({one.agent_id for one in issued}))
        .order_by(challenge.c.issued_at, challenge.c.challenge_id.desc())
    )
    pending: dict[str, list[bytes]] = {}
    for agent_id, challenge_id in await connection.execute(query):
        pending.setdefault(agent_id, []).append(challenge_id)
    for one in issued:
        pending.setdefault(one.agent_id, []).append(one.challenge_id)
    surplus = {challenge_id for ids in pending.values() for challenge_id in ids[:-MAX_PER_AGENT]}
    await connection.execute(insert(challenge), [one.row() for one in issued if one.challenge_id not in surplus])
    if surplus:
        await connection.execute(delete(challenge).where(challenge.c.challenge_id.in_(surplus)))


async def take(connection: AsyncConnection, wanted: Sequence[tuple[bytes, str]]) -> list[Pending | None]:
    """Remove challenges and return each; ``None`` where the agent has no such challenge. Of two takers one gets it.

    :param wanted: id of the challenge, and the agent's.
    """
    # Not DELETE ... RETURNING: MySQL has none. In one order, so that two registrars do not wait for each other.
    ids = {challenge_id for challenge_id, _ in wanted}
    query = select(challenge).where(challenge.c.challenge_id.in_(ids)).order_by(challenge.c.challenge_id).with_for_update()
    rows = {row["challenge_id"]: row for row in (await connection.execute(query)).mappings()}
    found: list[Pending | None] = []
    taken: set[bytes] = set()
    for challenge_id, agent_id in wanted:
        row = rows.get(challenge_id)
        if row is None or row["agent_id"] != agent_id or challenge_id in taken:
            found.append(None)
            continue
        taken.add(challenge_id)
        claims = {name: row[name] for name in CLAIMS}
        found.append(
            Pending(expires_at=row["expires_at"], proof_digest=row["proof_digest"], bus_key=row["bus_key"], claims=claims)
        )
    if taken:
        await connection.execute(delete(challenge).where(challenge.c.challenge_id.in_(taken)))
    return found


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
