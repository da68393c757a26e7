"""One machine under several ids: what one of them has failed, none of them may.

A machine is told by its endorsement key, whatever the rest of the public area says: an agent may choose that freely. A TPM
can make further endorsement keys from other templates; whether those count is for the EK policy to say (``accept_ek``).
Where nobody but the IAK speaks for the machine, any endorsement key would do, one of software too: the IAK tells it then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.database.statements import insert_missing
from attestream.errors import EnrolmentError, ForbiddenError
from attestream.tpm.public import parse_public
from services.registrar.tables import identity, machine, standing

MAX_IDS: Final = 8
"""Most ids of one machine that are enrolled at a time."""

Ids = Mapping[str, bool]
"""Enrolled ids of a machine, and whether each has failed and not been let in again."""

_REMEDY: Final = (
    "Find out why it failed; then re-admit it (`attestream agents start`, `update` or `add`), or remove that enrolment "
    "(`attestream enrolments delete`)."
)


def key_digest(public: bytes) -> str:
    """Return what tells a machine: the SHA-256 of its endorsement key, or of the IAK that is vouched for in the place of
    that, as SubjectPublicKeyInfo, in hexadecimal.

    :param public: TPM2B_PUBLIC.
    """
    key = parse_public(public).key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


async def hold(connection: AsyncConnection, digests: Iterable[str]) -> None:
    """Have no other transaction enrol these machines, under whatever id, until this one ends."""
    if connection.dialect.name == "sqlite":
        return  # whoever may write is alone there
    ordered = sorted(set(digests))
    await connection.execute(
        insert_missing(connection.dialect.name, machine, key="ek_digest"), [{"ek_digest": digest} for digest in ordered]
    )
    mine = machine.c.ek_digest.in_(ordered)
    await connection.execute(select(machine).where(mine).order_by(machine.c.ek_digest).with_for_update())


async def by_key(connection: AsyncConnection, digests: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Return the enrolled ids of each machine."""
    query = (
        select(identity.c.ek_digest, identity.c.agent_id, func.coalesce(standing.c.failed, False).label("failed"))
        .outerjoin(standing, standing.c.agent_id == identity.c.agent_id)
        .where(identity.c.ek_digest.in_(set(digests)), identity.c.active)
    )
    found: dict[str, dict[str, bool]] = {}
    for row in await connection.execute(query):
        found.setdefault(row.ek_digest, {})[row.agent_id] = bool(row.failed)
    return found


async def others(connection: AsyncConnection, agent_ids: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Return, for each enrolled id whose machine has others, those."""
    mine = identity.alias("mine")
    query = (
        select(mine.c.agent_id.label("asked"), identity.c.agent_id, func.coalesce(standing.c.failed, False).label("failed"))
        .join(identity, (identity.c.ek_digest == mine.c.ek_digest) & (identity.c.agent_id != mine.c.agent_id))
        .outerjoin(standing, standing.c.agent_id == identity.c.agent_id)
        .where(mine.c.agent_id.in_(set(agent_ids)), mine.c.ek_digest != "", mine.c.active, identity.c.active)
    )
    found: dict[str, dict[str, bool]] = {}
    for row in await connection.execute(query):
        found.setdefault(row.asked, {})[row.agent_id] = bool(row.failed)
    return found


def enrolment_refusal(agent_id: str, ids: Ids) -> EnrolmentError | None:
    """Return why a machine with the enrolled ``ids`` may not enrol as ``agent_id``, or again so; ``None`` when it may."""
    for other, failed in ids.items():
        if failed and other != agent_id:
            return EnrolmentError(f"this machine has failed as {other!r}", remedy=_REMEDY)
    if agent_id not in ids and len(ids) >= MAX_IDS:
        return EnrolmentError(
            f"this machine is enrolled under {len(ids)} ids already",
            remedy="Remove one that is not used: `attestream enrolments delete`.",
        )
    return None


def objection(agent_id: str, other: str) -> ForbiddenError:
    """Return the refusal of an identity on the bus for a machine that has failed as ``other``."""
    return ForbiddenError(f"agent {agent_id} is cut off: its machine has failed as {other!r}", remedy=_REMEDY)
