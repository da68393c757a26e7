"""The record of who is who. A row changes only by a proof or by an operator's deletion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.database.statements import insert_missing
from attestream.errors import EnrolmentError, UnknownAgentError
from schemas.enrolment import AgentsQuery, Identity, IdentityPage
from schemas.subjects import AGENT_ID
from services.registrar import machines
from services.registrar.tables import CLAIMS, TEXTS, identity

MAX_PAGE: Final = 500
_NOTHING: Final[dict[str, Any]] = {name: "" if name in TEXTS else b"" for name in CLAIMS}
_WHOLE_ROW: Final = (
    update(identity)
    .where(identity.c.agent_id == bindparam("agent_id_"))
    .values(**{column.name: bindparam(f"{column.name}_") for column in identity.c if not column.primary_key})
)
"""To be executed with rows whose names end in an underscore."""


class Recorded(msgspec.Struct, frozen=True):
    """What a proven enrolment came to."""

    enrolment: int
    at: int
    """Unix time in milliseconds at which this enrolment was proven first."""
    changed: bool
    """False when the same keys were proven before."""
    first: bool
    """Whether the id was free."""


async def record(
    connection: AsyncConnection, proven: Sequence[tuple[str, dict[str, Any]]], now: int
) -> list[Recorded | EnrolmentError]:
    """Make each proven enrolment the active one, or tell why not: the id belongs to another EK, or the EK has failed as
    another id.

    The id stays with its EK until an operator deletes the identity: a valid proof by another TPM takes nothing over.

    :param proven: agent id, and the claims.
    """
    if not proven:
        return []
    rows = await _lock(connection, {agent_id for agent_id, _ in proven})
    # A challenge of an older version does not tell it.
    digests = [claims.get("ek_digest") or machines.key_digest(claims["ek_public"]) for _, claims in proven]
    await machines.hold(connection, digests)
    enrolled = await machines.by_key(connection, digests)
    outcomes: list[Recorded | EnrolmentError] = []
    changed: dict[str, dict[str, Any]] = {}
    for (agent_id, claims), digest in zip(proven, digests, strict=True):
        row, ids = rows[agent_id], enrolled.setdefault(digest, {})
        if row["active"] and row["ek_public"] != claims["ek_public"]:
            outcomes.append(taken(agent_id))
            continue
        if (refusal := machines.enrolment_refusal(agent_id, ids)) is not None:
            outcomes.append(refusal)
            continue
        ids.setdefault(agent_id, False)
        first = not row["active"]
        if not first and row["ak_public"] == claims["ak_public"] and row["transport_key"] == claims["transport_key"]:
            # The certificate and its judgement may be newer; who the agent is has not changed.
            row.update({name: claims[name] for name in ("ek_certificate", "ek_trust", "findings")} | {"ek_digest": digest})
            outcomes.append(Recorded(enrolment=row["enrolment"], at=row["at"], changed=False, first=False))
        else:
            row.update({**claims, "active": True, "enrolment": row["enrolment"] + 1, "at": now, "ek_digest": digest})
            outcomes.append(Recorded(enrolment=row["enrolment"], at=now, changed=True, first=first))
        changed[agent_id] = row
    if changed:
        await connection.execute(
            _WHOLE_ROW, [{f"{name}_": value for name, value in row.items()} for row in changed.values()]
        )
    return outcomes


async def remove(connection: AsyncConnection, agent_id: str) -> tuple[int, int]:
    """Free an id; return the number of the enrolment that ended, and since when it was (Unix ms).

    :raises UnknownAgentError: when there is no such identity.
    """
    _check(agent_id)
    # Not UPDATE ... RETURNING: MariaDB and MySQL have none.
    this = (identity.c.agent_id == agent_id, identity.c.active)
    query = select(identity.c.enrolment, identity.c.at).where(*this).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _unknown(agent_id)
    await connection.execute(update(identity).where(*this).values(active=False, **_NOTHING))
    return row.enrolment, row.at


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


async def owners(connection: AsyncConnection, agent_ids: Iterable[str]) -> dict[str, bytes]:
    """Return the EK public of each id's active identity; an id that is free is left out."""
    query = select(identity.c.agent_id, identity.c.ek_public).where(
        identity.c.agent_id.in_(set(agent_ids)), identity.c.active
    )
    return {row.agent_id: row.ek_public for row in await connection.execute(query)}


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


async def _lock(connection: AsyncConnection, agent_ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return the ids' rows, locked until the transaction ends; a free row is made where there is none."""
    rows = await _locked(connection, agent_ids)
    if missing := agent_ids - rows.keys():
        free = [{"agent_id": one, "active": False, "enrolment": 0, "at": 0, **_NOTHING} for one in sorted(missing)]
        await connection.execute(insert_missing(connection.dialect.name, identity, key="agent_id"), free)
        rows |= await _locked(connection, missing)
    return rows


async def _locked(connection: AsyncConnection, agent_ids: set[str]) -> dict[str, dict[str, Any]]:
    if not agent_ids:
        return {}
    # In one order, so that two registrars do not wait for each other.
    query = select(identity).where(identity.c.agent_id.in_(agent_ids)).order_by(identity.c.agent_id).with_for_update()
    return {row["agent_id"]: dict(row) for row in (await connection.execute(query)).mappings()}


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
