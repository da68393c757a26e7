"""The keys that agents have identities for, and the entries that make them void. All times are in Unix seconds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.credentials.account import EVERYBODY, MAX_REVOKED
from attestream.database.statements import insert_missing
from attestream.errors import EnrolmentError, ForbiddenError, RefusedError
from services.registrar.tables import account, bus_key, identity, revocation, standing

SKEW_S: Final = 60
"""By how much the clocks of registrars may differ. What is revoked is revoked up to so far ahead, and the next identity is
dated after that: otherwise one that a fast clock has dated would outlive its revocation."""

MAX_KEYS: Final = 4
"""Most keys of one agent with identities that hold: no agent may fill the list of revocations by itself."""


_PROLONG: Final = update(bus_key).where(bus_key.c.bus_key == bindparam("key")).values(expires_at=bindparam("end"))


async def register_all(
    connection: AsyncConnection, wanted: Sequence[tuple[str, str]], *, now: int, lifetime_s: int, known: bool = False
) -> list[int | RefusedError]:
    """Note that each agent's key gets an identity of ``lifetime_s``; return the time at which it is to be dated, or why it
    gets none: the key is another agent's, or this one has too many.

    :param known: whether the agents must have these keys already.
    """
    if not wanted:
        return []
    agents, keys = {agent_id for agent_id, _ in wanted}, {key for _, key in wanted}
    query = select(bus_key).where(or_(bus_key.c.bus_key.in_(keys), bus_key.c.agent_id.in_(agents)))
    found = (await connection.execute(query.order_by(bus_key.c.bus_key).with_for_update())).mappings()
    rows = {row["bus_key"]: dict(row) for row in found}
    revoked = await _revoked_at(connection, keys)
    outcomes: list[int | RefusedError] = []
    new: dict[str, dict[str, Any]] = {}
    longer: dict[str, dict[str, Any]] = {}
    for agent_id, key in wanted:
        row = rows.get(key)
        if (refusal := _refusal(rows, agent_id, key, now, known=known)) is not None:
            outcomes.append(refusal)
            continue
        issued_at = max(now, revoked(key) + 1)
        outcomes.append(issued_at)
        if row is not None and row["expires_at"] >= issued_at + lifetime_s:
            continue
        # Twice the life, so that not every renewal has to be written.
        rows[key] = {"bus_key": key, "agent_id": agent_id, "expires_at": issued_at + 2 * lifetime_s}
        (new if row is None or key in new else longer)[key] = rows[key]
    if new:
        await connection.execute(insert(bus_key), list(new.values()))
    if longer:
        changed = [{"key": key, "end": row["expires_at"]} for key, row in longer.items()]
        await connection.execute(_PROLONG, changed)
    return outcomes


def _refusal(
    rows: Mapping[str, Mapping[str, Any]], agent_id: str, key: str, now: int, *, known: bool
) -> RefusedError | None:
    row = rows.get(key)
    if known and (row is None or row["agent_id"] != agent_id):
        return ForbiddenError(f"agent {agent_id} has no identity with the key {key}", remedy="Enrol again.")
    if row is not None:
        if row["agent_id"] == agent_id:
            return None
        return EnrolmentError("the key for the bus belongs to another agent", remedy="Let the agent make a new key.")
    if sum(one["agent_id"] == agent_id and one["expires_at"] > now for one in rows.values()) < MAX_KEYS:
        return None
    return EnrolmentError(
        f"agent {agent_id} has identities with {MAX_KEYS} keys already",
        remedy="Find out why its key does not last; the oldest expire by themselves.",
    )


async def renewable(connection: AsyncConnection, agent_id: str, key: str, *, now: int, lifetime_s: int) -> int:
    """Return the time with which the next identity for ``key`` is to be dated; 0 when something must be written for it.

    Nothing must when the agent is enrolled and not blocked, has this key, and its row outlives the next identity, and its
    machine has no other id that had to be looked at. One statement: most renewals need no other.
    """
    other = identity.alias("other")
    elsewhere = exists().where(
        other.c.ek_digest == identity.c.ek_digest,
        other.c.agent_id != identity.c.agent_id,
        other.c.ek_digest != "",
        other.c.active,
    )
    revoked = select(func.max(revocation.c.revoked_at)).where(revocation.c.bus_key.in_((key, EVERYBODY))).scalar_subquery()
    query = (
        select(bus_key.c.expires_at, func.coalesce(revoked, 0).label("revoked_at"))
        .join(identity, identity.c.agent_id == bus_key.c.agent_id)
        .outerjoin(standing, standing.c.agent_id == bus_key.c.agent_id)
        .where(
            bus_key.c.bus_key == key,
            bus_key.c.agent_id == agent_id,
            identity.c.active,
            func.coalesce(standing.c.blocked, False).is_(False),
            ~elsewhere,
        )
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return 0
    issued_at = max(now, row.revoked_at + 1)
    return issued_at if row.expires_at >= issued_at + lifetime_s else 0


async def revoke(connection: AsyncConnection, agent_ids: Collection[str], *, now: int) -> dict[str, list[str]]:
    """Make every identity of agents void, and return the keys of each that had any."""
    if not agent_ids:
        return {}
    theirs = bus_key.c.agent_id.in_(agent_ids)
    query = select(bus_key).where(theirs, bus_key.c.expires_at > now).order_by(bus_key.c.bus_key).with_for_update()
    rows = (await connection.execute(query)).all()
    await _enter(connection, [(row.bus_key, row.agent_id, row.expires_at) for row in rows], now=now)
    await connection.execute(delete(bus_key).where(theirs))
    revoked: dict[str, list[str]] = {}
    for row in rows:
        revoked.setdefault(row.agent_id, []).append(row.bus_key)
    if revoked:
        await connection.execute(update(account).values(changed=account.c.changed + 1))
    return revoked


async def entries(connection: AsyncConnection, *, now: int) -> dict[str, int]:
    """Return the entries that are in force: key -> time until which what was issued to it is void."""
    rows = await connection.execute(select(revocation).where(revocation.c.until > now))
    return {row.bus_key: row.revoked_at for row in rows}


async def begin(connection: AsyncConnection) -> None:
    """Make the row that counts changes, unless there is one."""
    row = {"id": 1, "changed": 0, "confirmed": 0}
    await connection.execute(insert_missing(connection.dialect.name, account, row, key="id"))


async def changes(connection: AsyncConnection) -> tuple[int, int]:
    """Return how often the entries have changed, and how many of these changes the servers have confirmed."""
    found = (await connection.execute(select(account))).one()
    return found.changed, found.confirmed


async def confirm(connection: AsyncConnection, change: int) -> None:
    """Note that the servers have the entries as they were after ``change`` changes."""
    await connection.execute(update(account).where(account.c.confirmed < change).values(confirmed=change))


async def sweep(connection: AsyncConnection, *, now: int) -> None:
    """Forget keys whose identities have expired, and the entries that are not needed any more."""
    await connection.execute(delete(bus_key).where(bus_key.c.expires_at <= now))
    await connection.execute(delete(revocation).where(revocation.c.until <= now))


async def _revoked_at(connection: AsyncConnection, keys: Iterable[str]) -> Callable[[str], int]:
    """Return what tells the time until which what was issued to one of ``keys`` is void; 0: nothing is."""
    query = select(revocation.c.bus_key, revocation.c.revoked_at).where(revocation.c.bus_key.in_({*keys, EVERYBODY}))
    found = {row.bus_key: row.revoked_at for row in await connection.execute(query)}
    return lambda key: max(found.get(key, 0), found.get(EVERYBODY, 0))


async def _enter(connection: AsyncConnection, voided: Sequence[tuple[str, str, int]], *, now: int) -> None:
    """Enter what makes keys void: each key, whose it is, and until when the entry is needed at least."""
    if not voided:
        return
    keys = [key for key, _, _ in voided]
    before = await _revoked_at(connection, keys)
    await connection.execute(delete(revocation).where(revocation.c.bus_key.in_(keys)))
    rows = []
    for key, agent_id, until in voided:
        revoked_at = max(now + SKEW_S, before(key) + 1)
        until_then = max(until, revoked_at + 1)
        rows.append({"bus_key": key, "agent_id": agent_id, "revoked_at": revoked_at, "until": until_then})
    await connection.execute(insert(revocation), rows)


async def bound(connection: AsyncConnection, *, now: int) -> None:
    """Put one entry for everybody in the place of all, when there are more than :data:`MAX_REVOKED`."""
    if (await connection.execute(select(func.count()).select_from(revocation))).scalar_one() <= MAX_REVOKED:
        return
    last = (await connection.execute(select(func.max(bus_key.c.expires_at)))).scalar_one_or_none() or 0
    until = max(last, (await connection.execute(select(func.max(revocation.c.until)))).scalar_one())
    await _enter(connection, [(EVERYBODY, "", until)], now=now)
    await connection.execute(delete(revocation).where(revocation.c.bus_key != EVERYBODY))
    await connection.execute(delete(bus_key))
