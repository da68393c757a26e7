"""Two people for a policy: what a proposed version needs before agents are attested by it.

How many people it takes is in the roster, under the root key's signature, so that no worker's configuration can say less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from attestream.bus.connection import Bus
from attestream.errors import ForbiddenError, PolicyError, RefusedError, UnapprovedPolicyError
from schemas.commands import ApprovePolicy, PolicyDecision, PolicyRecord, PolicyState, RejectPolicy
from services.verifier.journal import Order

MAX_REASON: Final = 200
"""Characters of a rejection's reason that are kept."""


async def wanted(bus: Bus) -> bool:
    """Return whether a new version needs a second person, as the newest roster on the bus says."""
    if not bus.trust.checked:
        return False
    await bus.trust.refresh()
    return bus.trust.keyring.roster.policy_approvals > 1


def newest(records: Iterable[PolicyRecord]) -> PolicyRecord | None:
    """Return the approved version with the highest number; of those where none is approved, the last of all."""
    found: PolicyRecord | None = None
    for record in records:
        if found is None or record.state is PolicyState.APPROVED or found.state is not PolicyState.APPROVED:
            found = record
    return found


def check_usable(record: PolicyRecord) -> None:
    """Do nothing when agents may be attested by ``record``.

    :raises UnapprovedPolicyError: when they may not.
    """
    if record.state is PolicyState.REJECTED:
        raise UnapprovedPolicyError(f"{record.name}@{record.version} was rejected", remedy="Push another version.")
    if record.state is not PolicyState.APPROVED:
        raise UnapprovedPolicyError(f"{record.name}@{record.version} is proposed and not approved yet")


def decided(record: PolicyRecord, command: ApprovePolicy | RejectPolicy, order: Order, now: int) -> PolicyRecord:
    """Return ``record`` after the command of ``order``; ``now`` is Unix ms.

    :raises PolicyError: when the command is about another document.
    :raises RefusedError: when the version is decided already.
    :raises ForbiddenError: when its author approves it, under whichever key.
    """
    reference = f"{record.name}@{record.version}"
    if command.digest != record.digest:
        raise PolicyError(
            f"{reference} has the digest {record.digest[:16]}..., not the one that was looked at",
            remedy="Look at it again: `attestream policy show NAME@VERSION`.",
        )
    if record.state is not PolicyState.PROPOSED:
        raise RefusedError(f"{reference} is {record.state} already", remedy="Push another version if you want to change it.")
    approving = isinstance(command, ApprovePolicy)
    if approving and (order.key_id == record.actor_key or order.actor == record.actor):
        raise ForbiddenError(
            f"{order.actor} has proposed {reference} and can not approve it",
            remedy="Have another person approve it.",
        )
    decision = PolicyDecision(
        actor=order.actor,
        actor_key=order.key_id,
        at=now,
        command_id=order.id,
        command_at=order.at,
        reason="" if isinstance(command, ApprovePolicy) else command.reason[:MAX_REASON],
    )
    state = PolicyState.APPROVED if approving else PolicyState.REJECTED
    return msgspec.structs.replace(record, state=state, decision=decision)
