"""Policies: published once, compiled once per worker and digest, shared by every agent that uses them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from attestream.appraisal.layers import layer_names
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.bus import keyvalue, objects
from attestream.bus.connection import Bus
from attestream.errors import (
    FencedError,
    MalformedError,
    PolicyError,
    RefusedError,
    SupersededError,
    UnknownPolicyError,
)
from attestream.reference.envelope import PublicKey
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy
from schemas import topology
from schemas.base import Decoder, SchemaError, encode
from schemas.commands import ApprovePolicy, PolicyRecord, PolicyState, PublishPolicy, RejectPolicy
from schemas.subjects import POLICY_NAME
from services.verifier import approvals
from services.verifier.journal import Order
from services.verifier.policy_signatures import signer_of

log = logging.getLogger(__name__)

MAX_NAMES = 4096
"""Policy versions whose digest a worker remembers."""

_RECORD = Decoder[PolicyRecord](PolicyRecord)


def split(reference: str) -> tuple[str, int | None]:
    """Return name and version of ``name@version`` or ``name``.

    :raises PolicyError: when it is neither.
    """
    name, at, version = reference.partition("@")
    if not POLICY_NAME.match(name) or (at and not (version.isascii() and version.isdigit() and len(version) < 10)):
        raise PolicyError(f"{reference[:100]!r} is not a policy", remedy="Write NAME or NAME@VERSION.")
    return name, int(version) if at else None


class Policies:
    """The worker's compiled policies, at most ``capacity`` besides those in use.

    :param keys: one of which must sign a document before it is published; none: nobody needs to.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Callable[[], int],
        capacity: int = 64,
        boot_policies: Mapping[str, BootPolicy] = BUILT_IN,
        keys: Sequence[PublicKey] = (),
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._capacity = capacity
        self._boot_policies = boot_policies
        self._keys = keys
        self._compiled: OrderedDict[str, asyncio.Task[CompiledPolicy]] = OrderedDict()
        self._digests: dict[str, tuple[str, str]] = {}
        """``name@version``, which never changes its meaning -> the same and the document's digest."""

    async def find(self, reference: str) -> tuple[str, CompiledPolicy]:
        """Return ``name@version`` and the compiled policy for ``name@version`` or ``name`` (then the newest approved one).

        :raises UnknownPolicyError: when there is none.
        :raises UnapprovedPolicyError: when it is not approved.
        """
        if (known := self._digests.get(reference)) is not None:
            return known[0], await self.compiled(known[1])
        name, version = split(reference)
        if version is None:
            record = approvals.newest((await self._records(name))[0])
        else:
            entry = await keyvalue.get(self._bus, topology.CLUSTER.name, topology.policy_key(name, version))
            record = await self._record(entry) if entry else None
        if record is None:
            raise UnknownPolicyError(f"there is no policy {reference}")
        approvals.check_usable(record)
        if len(self._digests) >= MAX_NAMES:
            self._digests.clear()
        full = f"{record.name}@{record.version}"
        full, digest = self._digests.setdefault(full, (full, record.digest))
        return full, await self.compiled(digest)

    async def compiled(self, digest: str) -> CompiledPolicy:
        """Return the policy with SHA-256 ``digest``, fetched and compiled at most once at a time."""
        task = self._compiled.get(digest)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.ensure_future(self._compile(digest))
            self._compiled[digest] = task
            while len(self._compiled) > self._capacity:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(digest)
        return await asyncio.shield(task)

    async def publish(self, command: PublishPolicy, order: Order) -> PolicyRecord:
        """Validate the document and make it the next version.

        The same document twice in a row is one version, and so is the same command twice. Where the roster asks for two
        people the version is only proposed.

        :raises SupersededError: when the newest version was ordered later.
        :raises PolicyError: when the document is not valid or the name is not, or its envelope holds another document.
        :raises SignatureError: when it must be signed, and is not by a key that may.
        """
        name, version = split(command.name)
        if version is not None:
            raise PolicyError("a version can not be chosen", remedy="Give the name only; versions count up by themselves.")
        envelope = await self._document(command.envelope) if command.envelope else None
        signer = await asyncio.to_thread(signer_of, envelope, command.digest, self._keys)
        policy = await self.compiled(command.digest)
        state = PolicyState.PROPOSED if await approvals.wanted(self._bus) else PolicyState.APPROVED
        records, highest = await self._records(name)
        for record in records:
            if record.command_id == command.command_id:
                return record
        newest = records[-1] if records else None
        if newest is not None and order.at < newest.command_at:
            raise SupersededError(f"{name}@{newest.version} was ordered later")
        usable = newest is not None and newest.state in (state, PolicyState.APPROVED)
        if newest is not None and usable and newest.digest == command.digest and (newest.signed_by or not signer):
            return newest
        record = PolicyRecord(
            name=name,
            version=highest + 1,
            digest=command.digest,
            at=self._clock(),
            actor=order.actor,
            entries=policy.entries,
            command_id=order.id,
            command_at=order.at,
            actor_key=order.key_id,
            state=state,
            envelope=command.envelope,
            signed_by=signer,
        )
        key = topology.policy_key(name, record.version)
        try:
            await keyvalue.put(self._bus, topology.CLUSTER.name, key, encode(record), expected=0, sign=True)
        except FencedError:
            return await self.publish(command, order)
        return record

    async def decide(self, command: ApprovePolicy | RejectPolicy, order: Order) -> PolicyRecord:
        """Approve or reject a proposed version. The same command twice has the effect of once.

        :raises UnknownPolicyError: when there is no such version.
        :raises PolicyError: when its document is another one.
        :raises ForbiddenError: when its author approves it.
        :raises RefusedError: when it is decided already.
        """
        name, version = split(f"{command.name}@{command.version}")
        key = topology.policy_key(name, version or 0)
        entry = await keyvalue.get(self._bus, topology.CLUSTER.name, key)
        if entry is None:
            raise UnknownPolicyError(f"there is no policy {name}@{version}")
        record = await self._record(entry)
        if record.decision is not None and record.decision.command_id == command.command_id:
            return record
        decided = approvals.decided(record, command, order, self._clock())
        try:
            bucket = topology.CLUSTER.name
            await keyvalue.put(self._bus, bucket, key, encode(decided), expected=entry.revision, sign=True)
        except FencedError:
            return await self.decide(command, order)
        return decided

    async def _records(self, name: str) -> tuple[list[PolicyRecord], int]:
        """Return the versions of ``name`` in order, and the highest number that is taken by whatever it is."""
        entries = await keyvalue.entries(self._bus, topology.CLUSTER.name, topology.policy_keys(name))
        records = []
        for key, entry in entries.items():
            try:
                records.append(await self._record(entry))
            except (RefusedError, MalformedError, SchemaError) as error:
                log.error("the policy's record %s is not believed: %s", key, error)
        taken = [int(version) for key in entries if (version := key.rpartition(".")[2]).isdigit()]
        return sorted(records, key=lambda record: record.version), max(taken, default=0)

    async def _record(self, entry: keyvalue.Entry) -> PolicyRecord:
        """Return the record in an entry of the bucket.

        :raises SignatureError: when no verifier has signed it, or for another key.
        :raises MalformedError: when it is another policy's.
        """
        await self._bus.trust.author_of(entry)
        record = _RECORD.decode(entry.value)
        if topology.policy_key(record.name, record.version) != entry.key:
            raise MalformedError(f"{entry.key} holds the record of {record.name}@{record.version}")
        return record

    async def _compile(self, digest: str) -> CompiledPolicy:
        document = await self._document(digest)
        # Reading and compiling a large policy take long enough to hold up every other agent of the worker.
        names = await asyncio.to_thread(layer_names, document)
        layers = {name: await self._layer(name) for name in names}
        return await asyncio.to_thread(compile_policy, document, layers, boot_policies=self._boot_policies)

    async def _layer(self, reference: str) -> bytes:
        try:
            name, version = split(reference)
        except PolicyError as error:
            raise PolicyError(f"layer {error.message}") from error
        if version is None:
            raise PolicyError(f"layer {reference} has no version: a layer must never change its meaning")
        entry = await keyvalue.get(self._bus, topology.CLUSTER.name, topology.policy_key(name, version))
        if entry is None:
            raise PolicyError(f"layer {reference} was not found", remedy="Push the layer first.")
        record = await self._record(entry)
        approvals.check_usable(record)
        return await self._document(record.digest)

    async def _document(self, digest: str) -> bytes:
        document = await objects.get(self._bus, topology.POLICIES, digest)
        if document is None:
            raise UnknownPolicyError(f"there is no policy document {digest[:64]}")
        return document
