"""The record of who is who. A row changes only by a proof or by an operator's deletion."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.database.statements import insert_missing
from attestream.errors import EnrolmentError, UnknownAgentError
from schemas.enrolment import AgentsQuery, Identity, IdentityPage
from schemas.subjects import AGENT_ID
from services.registrar.tables import CLAIMS, identity

MAX_PAGE: Final = 500
_NOTHING: Final[dict[str, Any]] = {name: "" if name == "ek_trust" else b"" for name in CLAIMS}


class Recorded(msgspec.Struct, frozen=True):
    """What a proven enrolment came to."""

    enrolment: int
    at: int
    """Unix time in milliseconds at which this enrolment was proven first."""
    changed: bool
    """False when the same keys were proven before."""
    first: bool
    """Whether the id was free."""


async def record(connection: AsyncConnection, agent_id: str, claims: dict[str, Any], now: int) -> Recorded:
    """Make a proven enrolment the active one.

    The id stays with its EK until an operator deletes the identity: a valid proof by another TPM takes nothing over.

    :raises EnrolmentError: when the id belongs to another EK.
    """
    row = await _lock(connection, agent_id)
    if row.active and row.ek_public != claims["ek_public"]:
        raise taken(agent_id)
    same = row.active and row.ak_public == claims["ak_public"] and row.transport_key == claims["transport_key"]
    if same:
        # The certificate and its judgement may be newer; who the agent is has not changed.
        values = {name: claims[name] for name in ("ek_certificate", "ek_trust", "findings")}
    else:
        values = {**claims, "active": True, "enrolment": row.enrolment + 1, "at": now}
    await connection.execute(update(identity).where(identity.c.agent_id == agent_id).values(**values))
    if same:
        return Recorded(enrolment=row.enrolment, at=row.at, changed=False, first=False)
    return Recorded(enrolment=row.enrolment + 1, at=now, changed=True, first=not row.active)


async def remove(connection: AsyncConnection, agent_id: str) -> int:
    """Free an id and return the number of the enrolment that ended.

    :raises UnknownAgentError: when there is no such identity.
    """
    _check(agent_id)
    # Not UPDATE ... RETURNING: MariaDB and MySQL have none.
    this = (identity.c.agent_id == agent_id, identity.c.active)
    enrolment = (await connection.execute(select(identity.c.enrolment).where(*this).with_for_update())).scalar_one_or_none()
    if enrolment is None:
        raise _unknown(agent_id)
    await connection.execute(update(identity).where(*this).values(active=False, **_NOTHING))
    return int(enrolment)


async def find(connection: AsyncConnection, agent_id: str) -> Identity:
    """Return an active identity.

    :raises UnknownAgentError: when there is none.
    """
    _check(agent_id)
    row = (
        await connection.execute(select(identity).where(identity.c.agent_id == agent_id, identity.c.active))
    ).one_or_none()
    if row is None:
        raise _unknown(agent_id)
    return _identity(row)


async def owner(connection: AsyncConnection, agent_id: str) -> bytes:
    """Return the EK public of the id's active identity; empty when the id is free."""
    query = select(identity.c.ek_public).where(identity.c.agent_id == agent_id, identity.c.active)
    return (await connection.execute(query)).scalar_one_or_none() or b""


async def page(connection: AsyncConnection, query: AgentsQuery) -> IdentityPage:
    """Return the active identities after an id, in the order of ids, at most :data:`MAX_PAGE`.

    :raises UnknownAgentError: when ``after`` is not empty and can not be an agent id.
    """
    if query.after:
        _check(query.after)
    limit = min(max(query.limit, 1), MAX_PAGE)
    rows = (
        await connection.execute(
            select(identity)
            .where(identity.c.agent_id > query.after, identity.c.active)
            .order_by(identity.c.agent_id)
            .limit(limit + 1)
        )
    ).all()
    return IdentityPage(identities=[_identity(row) for row in rows[:limit]], more=len(rows) > limit)


def taken(agent_id: str) -> EnrolmentError:
    """Return the refusal for a TPM that asks for another's id."""
    return EnrolmentError(f"the id {agent_id!r} belongs to another TPM")


async def _lock(connection: AsyncConnection, agent_id: str) -> Row[Any]:
    """Return the id's row, locked until the transaction ends; a free row is made when there is none."""
    free = {"agent_id": agent_id, "active": False, "enrolment": 0, "at": 0, **_NOTHING}
    await connection.execute(insert_missing(connection.dialect.name, identity, free, key="agent_id"))
    return (await connection.execute(select(identity).where(identity.c.agent_id == agent_id).with_for_update())).one()


def _identity(row: Row[Any]) -> Identity:
    return Identity(
        agent_id=row.agent_id,
        ek_public=row.ek_public,
        ak_public=row.ak_public,
        transport_key=row.transport_key,
        enrolment=row.enrolment,
        ek_trust=row.ek_trust,
        at=row.at,
    )


def _check(agent_id: str) -> None:
    if not AGENT_ID.match(agent_id):
        raise _unknown(agent_id)


def _unknown(agent_id: str) -> UnknownAgentError:
    return UnknownAgentError(f"no agent {agent_id[:100]!r} is enrolled")
