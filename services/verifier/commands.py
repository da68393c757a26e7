"""Tenant commands, executed in order by the owner of the partition. Each can be executed twice with the effect of once."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Final

from attestream.appraisal.standing import Transition, Trigger, step
from attestream.appraisal.state import fresh
from attestream.errors import (
    AgentExistsError,
    ExpiredError,
    ForbiddenError,
    MalformedError,
    RefusedError,
    SupersededError,
    UnknownAgentError,
)
from attestream.trust.authority import commanders
from attestream.trust.keyring import Author, check_role
from schemas import subjects
from schemas.commands import (
    AddAgent,
    ApprovePolicy,
    Attestation,
    Command,
    DeleteAgent,
    Outcome,
    PolicyRecord,
    PolicyState,
    PublishPolicy,
    RejectPolicy,
    StartAgent,
    StopAgent,
    UpdateAgent,
    about,
)
from schemas.events import Event, EventKind, Standing
from services.verifier import identities
from services.verifier.attester import Attester
from services.verifier.journal import Order

if TYPE_CHECKING:
    from services.verifier.partition import Partition

log = logging.getLogger(__name__)

LIFE_MS: Final = 86_400_000
"""Age at which a command is not executed any more, in milliseconds: it may wait for a verifier, but not for ever."""

MIN_INTERVAL_MS: Final = 200
MAX_INTERVAL_MS: Final = 86_400_000

_COMMAND_ID: Final = re.compile(r"[!-~]{1,64}\Z", re.ASCII)
"""It is kept in rows: one that a database does not take would keep all rows of the batch from being written."""

_TRIGGERS: Final = {UpdateAgent: Trigger.UPDATED, StartAgent: Trigger.STARTED, StopAgent: Trigger.STOPPED}


async def execute(partition: Partition, command: Command, author: Author, sequence: int) -> Outcome:
    """Carry out what ``author`` has asked for and return its outcome; a refusal is an outcome too. ``sequence`` is the
    command's in its stream.

    :raises AttestreamError: when it can not be carried out for now; it must then be offered again.
    :raises MalformedError: when its id is not 1-64 printable characters of ASCII.
    """
    if not _COMMAND_ID.match(command.command_id):
        raise MalformedError("the command's id is not 1-64 printable characters of ASCII")
    # What a command says of its actor is only its author's word.
    actor = author.name if author.key_id else command.actor
    order = Order(id=command.command_id, at=author.signed_at, actor=actor, key_id=author.key_id)
    try:
        check_role(author, commanders(command))
        await _check_still(partition, author)
        if author.key_id and partition.now() - author.signed_at > LIFE_MS:
            raise ExpiredError("the command is older than a day", remedy="Give it again if it is still wanted.")
        detail = await _dispatch(partition, command, order, sequence)
    except RefusedError as error:
        log.info("command %s of %s refused: %s", command.command_id, order.actor or "nobody", error.message)
        if isinstance(error, ForbiddenError | SupersededError):
            await _record_refusal(partition, command, order, error)
        return refusal(command, error)
    return Outcome(command_id=command.command_id, ok=True, detail=detail)


async def _check_still(partition: Partition, author: Author) -> None:
    """Do nothing while the author's key counts: who has left gives no orders, not even with what was signed before.

    :raises ForbiddenError: when it does not.
    """
    if not author.key_id:
        return
    trust = partition.bus.trust
    await trust.refresh()
    entry, now = trust.keyring.entry(author.key_id), partition.now()
    if entry is None or entry.revoked_at:
        raise ForbiddenError(f"{author.name} was revoked before this was executed")
    if entry.not_after and now > entry.not_after:
        raise ForbiddenError(f"the time of {author.name}'s key was over before this was executed")


def refusal(command: Command, error: RefusedError) -> Outcome:
    """Return the outcome of a command that was refused."""
    return Outcome(command_id=command.command_id, ok=False, code=error.code, message=error.message, remedy=error.hint)


async def _record_refusal(partition: Partition, command: Command, order: Order, error: RefusedError) -> None:
    event = Event(
        id=f"forbidden:{order.id}",
        kind=EventKind.FORBIDDEN,
        agent_id=about(command),
        at=partition.now(),
        command_id=order.id,
        command_at=order.at,
        actor=order.actor,
        actor_key=order.key_id,
        detail=f"{error.code}: {error.message}",
        worker=partition.worker,
        fence=partition.fence.token,
    )
    await partition.journal.record(event, partition.fence)


async def _dispatch(partition: Partition, command: Command, order: Order, sequence: int) -> str:
    match command:
        case AddAgent():
            return await _add(partition, command, order, _incarnation(order, sequence))
        case UpdateAgent() | StartAgent() | StopAgent():
            return await _change(partition, command, order)
        case DeleteAgent():
            return await _delete(partition, command, order)
        case PublishPolicy():
            return await _published(partition, await partition.policies.publish(command, order))
        case ApprovePolicy() | RejectPolicy():
            return await _decided(partition, await partition.policies.decide(command, order))


def _check_order(order: Order, last_id: str, last_at: int) -> None:
    """:raises SupersededError: ``order`` was signed before the last one that was executed, and is not that one."""
    if order.at < last_at and order.id != last_id:
        raise SupersededError("another command was signed later and has been executed")


async def _add(partition: Partition, command: AddAgent, order: Order, incarnation: str) -> str:
    known = partition.attesters.get(command.agent_id)
    if known is not None:
        if known.incarnation == incarnation:
            return known.policy_name
        raise AgentExistsError(f"{command.agent_id} is under attestation already")
    if order.key_id:
        if (ended := await partition.deleted_by(command.agent_id)) is not None:
            _check_order(order, "", ended.at)
        # The bus may hide the end of the agent.
        _check_order(order, "", await partition.ended_at(command.agent_id))
    name, policy = await partition.policies.find(command.attestation.policy)
    identity = await identities.ask(partition.bus, command.agent_id)
    attester = Attester(command.agent_id, partition, policy, name)
    attester.token = subjects.token(command.agent_id)
    attester.incarnation = incarnation
    attester.last_command, attester.commanded_at = order.id, order.at
    attester.standing = Standing.ENROLLED
    identities.adopt(attester, identity)
    _set_times(attester, command.attestation, partition.settings.lease_floor_s)
    await partition.journal.transition(attester, EventKind.ADDED, Standing.PENDING, order=order)
    await partition.journal.save(attester)
    await partition.journal.renew(attester)
    partition.take_in(attester)
    return name


async def _change(partition: Partition, command: UpdateAgent | StartAgent | StopAgent, order: Order) -> str:
    attester = _known(partition, command.agent_id)
    _check_order(order, attester.last_command, attester.commanded_at)
    wanted = command.attestation if isinstance(command, UpdateAgent) else None
    # A command that is on the record has named its policy: the newest version may be another by now.
    recorded = (attester.last_command, attester.commanded_at) == (order.id, order.at)
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
                await _start_over(partition, attester, change, order)
            attester.commanded_at = max(attester.commanded_at, order.at)
            if attester.standing in (Standing.PENDING, Standing.STOPPED):
                await partition.journal.renew(attester)
            await partition.journal.save(attester)
        finally:
            partition.scheduler.start_over(attester)
    return attester.policy_name


async def _start_over(partition: Partition, attester: Attester, change: Transition, order: Order) -> None:
    await partition.journal.transition(attester, change.kind, change.after, order=order)
    attester.last_command = order.id
    attester.state = fresh()
    attester.findings = []
    attester.missed = 0
    # Evidence for a challenge from before must not be judged by what holds now.
    attester.accepted = max(attester.accepted, attester.seq)


async def _delete(partition: Partition, command: DeleteAgent, order: Order) -> str:
    attester = partition.attesters.get(command.agent_id)
    if attester is None:
        ended = await partition.deleted_by(command.agent_id)
        if ended is not None and ended.id == command.command_id:
            return ""
        raise UnknownAgentError(f"{command.agent_id} is not under attestation")
    _check_order(order, attester.last_command, attester.commanded_at)
    async with partition.alone(attester):
        await partition.journal.transition(attester, EventKind.DELETED, Standing.UNKNOWN, order=order)
        attester.commanded_at = max(attester.commanded_at, order.at)
        # The last word in RESULTS must not be that a forgotten agent is trusted.
        await partition.journal.renew(attester)
        await partition.let_go(attester)
    return ""


async def _published(partition: Partition, record: PolicyRecord) -> str:
    # What has become of a proposal since is announced by whoever decided it.
    proposed = record.state is PolicyState.PROPOSED or record.decision is not None
    kind = EventKind.POLICY_PROPOSED if proposed else EventKind.POLICY_PUBLISHED
    order = Order(id=record.command_id, at=record.command_at, actor=record.actor, key_id=record.actor_key)
    event = _policy_event(partition, record, kind, order, record.at)
    # Whoever made the version may have died before it was announced.
    if not await partition.announced(event):
        await partition.journal.record(event, partition.fence)
    return f"{event.policy} proposed" if record.state is PolicyState.PROPOSED else event.policy


async def _decided(partition: Partition, record: PolicyRecord) -> str:
    kind = EventKind.POLICY_APPROVED if record.state is PolicyState.APPROVED else EventKind.POLICY_REJECTED
    decision = record.decision
    if decision is None:
        raise MalformedError(f"{record.name}@{record.version} was decided by nobody")
    order = Order(id=decision.command_id, at=decision.command_at, actor=decision.actor, key_id=decision.actor_key)
    event = _policy_event(partition, record, kind, order, decision.at, decision.reason)
    # Told twice rather than not at all: its id is the same.
    await partition.journal.record(event, partition.fence)
    return event.policy


def _policy_event(
    partition: Partition, record: PolicyRecord, kind: EventKind, order: Order, at: int, detail: str = ""
) -> Event:
    reference = f"{record.name}@{record.version}"
    prefix = "policy" if kind is EventKind.POLICY_PUBLISHED else kind
    return Event(
        id=f"{prefix}:{reference}",
        kind=kind,
        agent_id=record.name,
        at=at,
        policy=reference,
        command_id=order.id,
        command_at=order.at,
        actor=order.actor,
        actor_key=order.key_id,
        detail=detail,
        worker=partition.worker,
        fence=partition.fence.token,
    )


def _known(partition: Partition, agent_id: str) -> Attester:
    try:
        return partition.attesters[agent_id]
    except KeyError:
        raise UnknownAgentError(f"{agent_id} is not under attestation") from None


def _incarnation(order: Order, sequence: int) -> str:
    """Return what tells this life of an agent from every other. Ids of events are made of it, so that no client may choose
    it: the sequence does not come again as long as the stream lives, nor the time of the signature when it is made anew."""
    return hashlib.sha256(f"{order.id} {order.key_id} {order.at} {sequence}".encode()).hexdigest()[:16]


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
