"""Tenant commands, executed in order by the owner of the partition. Each can be executed twice with the effect of once."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from attestream.appraisal.standing import Transition, Trigger, step
from attestream.appraisal.state import fresh
from attestream.errors import AgentExistsError, MalformedError, RefusedError, UnknownAgentError
from schemas import subjects
from schemas.commands import (
    AddAgent,
    Attestation,
    Command,
    DeleteAgent,
    Outcome,
    PublishPolicy,
    StartAgent,
    StopAgent,
    UpdateAgent,
)
from schemas.events import Event, EventKind, Standing
from services.verifier import identities
from services.verifier.attester import Attester

if TYPE_CHECKING:
    from services.verifier.partition import Partition

log = logging.getLogger(__name__)

MIN_INTERVAL_MS: Final = 200
MAX_INTERVAL_MS: Final = 86_400_000

_COMMAND_ID: Final = re.compile(r"[!-~]{1,64}\Z", re.ASCII)
"""It is kept in rows: one that a database does not take would keep all rows of the batch from being written."""

_TRIGGERS: Final = {UpdateAgent: Trigger.UPDATED, StartAgent: Trigger.STARTED, StopAgent: Trigger.STOPPED}


async def execute(partition: Partition, command: Command) -> Outcome:
    """Carry ``command`` out and return its outcome; a refusal is an outcome too.

    :raises AttestreamError: when it can not be carried out for now; it must then be offered again.
    :raises MalformedError: when its id is not 1-64 printable characters of ASCII.
    """
    if not _COMMAND_ID.match(command.command_id):
        raise MalformedError("the command's id is not 1-64 printable characters of ASCII")
    try:
        detail = await _dispatch(partition, command)
    except RefusedError as error:
        log.info("command %s refused: %s", command.command_id, error.message)
        return Outcome(command_id=command.command_id, ok=False, code=error.code, message=error.message, remedy=error.hint)
    return Outcome(command_id=command.command_id, ok=True, detail=detail)


async def _dispatch(partition: Partition, command: Command) -> str:
    match command:
        case AddAgent():
            return await _add(partition, command)
        case UpdateAgent() | StartAgent() | StopAgent():
            return await _change(partition, command)
        case DeleteAgent():
            return await _delete(partition, command)
        case PublishPolicy():
            return await _publish(partition, command)


async def _add(partition: Partition, command: AddAgent) -> str:
    known = partition.attesters.get(command.agent_id)
    if known is not None:
        if known.incarnation == _incarnation(command.command_id):
            return known.policy_name
        raise AgentExistsError(f"{command.agent_id} is under attestation already")
    name, policy = await partition.policies.find(command.attestation.policy)
    identity = await identities.ask(partition.bus, command.agent_id)
    attester = Attester(command.agent_id, partition, policy, name)
    attester.token = subjects.token(command.agent_id)
    attester.incarnation = _incarnation(command.command_id)
    attester.last_command = command.command_id
    attester.standing = Standing.ENROLLED
    identities.adopt(attester, identity)
    _set_times(attester, command.attestation, partition.settings.lease_floor_s)
    await partition.journal.transition(attester, EventKind.ADDED, Standing.PENDING, command_id=command.command_id)
    await partition.journal.save(attester)
    await partition.journal.renew(attester)
    partition.take_in(attester)
    return name


async def _change(partition: Partition, command: UpdateAgent | StartAgent | StopAgent) -> str:
    attester = _known(partition, command.agent_id)
    wanted = command.attestation if isinstance(command, UpdateAgent) else None
    # A command that is on the record has named its policy: the newest version may be another by now.
    recorded = attester.last_command == command.command_id
    name, policy = attester.policy_name, attester.policy
    if wanted is not None and not recorded:
        name, policy = await partition.policies.find(wanted.policy)
    async with partition.alone(attester):
        if wanted is not None:
            _set_times(attester, wanted, partition.settings.lease_floor_s)
        change = None if recorded else step(attester.standing, _TRIGGERS[type(command)])
        partition.scheduler.stop(attester)
        try:
            attester.policy_name, attester.policy = name, policy
            if change is not None:
                await _start_over(partition, attester, change, command.command_id)
            if attester.standing in (Standing.PENDING, Standing.STOPPED):
                await partition.journal.renew(attester)
            await partition.journal.save(attester)
        finally:
            partition.scheduler.later(attester, 0)
    return attester.policy_name


async def _start_over(partition: Partition, attester: Attester, change: Transition, command_id: str) -> None:
    await partition.journal.transition(attester, change.kind, change.after, command_id=command_id)
    attester.last_command = command_id
    attester.state = fresh()
    attester.findings = []
    attester.missed = 0
    # Evidence for a challenge from before must not be judged by what holds now.
    attester.accepted = max(attester.accepted, attester.seq)


async def _delete(partition: Partition, command: DeleteAgent) -> str:
    attester = partition.attesters.get(command.agent_id)
    if attester is None:
        if await partition.deleted_by(command.agent_id, command.command_id):
            return ""
        raise UnknownAgentError(f"{command.agent_id} is not under attestation")
    async with partition.alone(attester):
        await partition.journal.transition(attester, EventKind.DELETED, Standing.UNKNOWN, command_id=command.command_id)
        # The last word in RESULTS must not be that a forgotten agent is trusted.
        await partition.journal.renew(attester)
        await partition.let_go(attester)
    return ""


async def _publish(partition: Partition, command: PublishPolicy) -> str:
    record = await partition.policies.publish(command)
    reference = f"{record.name}@{record.version}"
    event = Event(
        id=f"policy:{reference}",
        kind=EventKind.POLICY_PUBLISHED,
        agent_id=record.name,
        at=record.at,
        policy=reference,
        command_id=record.command_id,
        worker=partition.worker,
        fence=partition.fence.token,
    )
    # Whoever made the version may have died before it was announced.
    if not await partition.announced(event):
        await partition.journal.record(event, partition.fence)
    return reference


def _known(partition: Partition, agent_id: str) -> Attester:
    try:
        return partition.attesters[agent_id]
    except KeyError:
        raise UnknownAgentError(f"{agent_id} is not under attestation") from None


def _incarnation(command_id: str) -> str:
    return command_id[:16]


def _set_times(attester: Attester, attestation: Attestation, lease_floor_s: float) -> None:
    interval, lease = attestation.interval_ms, attestation.lease_ms
    if not MIN_INTERVAL_MS <= interval <= MAX_INTERVAL_MS:
        raise RefusedError(
            f"an interval of {interval} ms is out of bounds",
            remedy=f"Choose between {MIN_INTERVAL_MS} ms and {MAX_INTERVAL_MS // 3_600_000} hours.",
        )
    if lease < 0 or lease > 7 * MAX_INTERVAL_MS or 0 < lease < interval:
        raise RefusedError(f"a lease of {lease} ms is out of bounds", remedy="Choose at least the interval, at most 7 days.")
    attester.interval_ms = interval
    attester.lease_ms = max(lease or 3 * interval, int(lease_floor_s * 1000))
