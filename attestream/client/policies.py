"""Reading and publishing policies: immutable documents, named ``name@version``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestream.client.commands import Commander, actor, new_command_id
from attestream.errors import MalformedError, UnknownPolicyError
from schemas import subjects
from schemas.base import SchemaError, decode
from schemas.commands import ApprovePolicy, Outcome, PolicyRecord, PolicyState, PublishPolicy, RejectPolicy
from schemas.topology import CLUSTER, POLICIES, policy_key, policy_keys

if TYPE_CHECKING:
    from attestream.bus.connection import Bus


def check_name(name: str) -> None:
    """Refuse what can not be a policy's name.

    :raises MalformedError: when it can not.
    """
    if not subjects.POLICY_NAME.match(name):
        raise MalformedError(
            f"{name[:100]!r} is not a policy name: 1-64 characters of A-Z a-z 0-9 . _ -, no dot in front",
            remedy="Choose another name.",
        )


def split(reference: str) -> tuple[str, int | None]:
    """Return name and version of ``name@version``, or the name and ``None`` for ``name``: the newest version.

    :raises MalformedError: when it is neither.
    """
    name, separator, version = reference.partition("@")
    check_name(name)
    if not separator:
        return name, None
    if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
        raise MalformedError(
            f"{version[:20]!r} is not a version of policy {name}: a number from 1", remedy=f"Write for example `{name}@1`."
        )
    return name, int(version)


async def records(bus: Bus, name: str = "") -> list[PolicyRecord]:
    """Return every version of policy ``name``, or of all policies, by name and version.

    :raises BusError: when the bus does not answer.
    :raises SignatureError: when a record is not signed by a verifier, for its name and version.
    :raises MalformedError: when a record can not be read.
    """
    from attestream.bus import keyvalue

    found = await keyvalue.entries(bus, CLUSTER.name, policy_keys(name))
    policies = []
    for key, entry in found.items():
        await bus.trust.author_of(entry)
        try:
            record = decode(entry.value, PolicyRecord)
        except SchemaError as error:
            raise MalformedError(f"a policy's record can not be read: {error}") from error
        if policy_key(record.name, record.version) != key:
            raise MalformedError(f"{key} holds the record of {record.name}@{record.version}")
        policies.append(record)
    return sorted(policies, key=lambda record: (record.name, record.version))


async def find(bus: Bus, reference: str) -> tuple[PolicyRecord, bytes]:
    """Return the record and the document of ``name@version``; of ``name`` the newest approved version, or the last of all
    where none is.

    :raises UnknownPolicyError: when there is none.
    :raises MalformedError: when ``reference`` can not be one, or what is stored can not be read.
    :raises BusError: when the bus does not answer.
    """
    from attestream.bus import objects

    name, version = split(reference)
    versions = {record.version: record for record in await records(bus, name)}
    usable = [number for number, record in versions.items() if record.state is PolicyState.APPROVED]
    record = versions.get(version if version is not None else max(usable or versions, default=0))
    if record is None:
        raise UnknownPolicyError(f"there is no policy {reference}", remedy="See `attestream policy list`.")
    document = await objects.get(bus, POLICIES, record.digest)
    if document is None:
        raise UnknownPolicyError(f"the document of policy {name}@{record.version} is missing from the bus")
    return record, document


async def push(bus: Bus, commander: Commander, name: str, document: bytes, *, timeout_s: float) -> Outcome:
    """Check ``document`` with the layers that it names, store it, and make it the next version of policy ``name``.

    ``document`` may be in an envelope (DSSE): then the envelope is stored, too, and the verifier looks at who signed it.

    :raises UnknownPolicyError: when one of its layers does not exist.
    :raises PolicyError: when the document is not valid; nothing has been sent then.
    :raises MalformedError: when ``name`` can not be a policy's name, or the envelope can not be read.
    :raises PendingCommandError: when no verifier has answered within ``timeout_s`` seconds.
    :raises BusError: when the bus does not take it.
    """
    from attestream.appraisal.layers import layer_names
    from attestream.appraisal.policy import compile_policy
    from attestream.bus import objects
    from attestream.reference.envelope import is_envelope, parse_envelope

    check_name(name)
    envelope = document if is_envelope(document) else b""
    if envelope:
        document = parse_envelope(envelope).payload
    compile_policy(document, {layer: (await find(bus, layer))[1] for layer in layer_names(document)})
    digest = await objects.put(bus, POLICIES, document)
    command = PublishPolicy(
        command_id=new_command_id(),
        name=name,
        digest=digest,
        actor=actor(),
        envelope=await objects.put(bus, POLICIES, envelope) if envelope else "",
    )
    return await commander.send(command, timeout_s=timeout_s)


async def decide(
    bus: Bus, commander: Commander, reference: str, *, approve: bool, digest: str, reason: str, timeout_s: float
) -> Outcome:
    """Approve or reject the proposed version ``name@version``, whose document has ``digest`` (hex; empty: whichever it has).

    :raises UnknownPolicyError: when there is none.
    :raises MalformedError: when ``reference`` can not be one, or has no version.
    :raises PendingCommandError: when no verifier has answered within ``timeout_s`` seconds.
    :raises BusError: when the bus does not answer.
    """
    name, version = split(reference)
    if version is None:
        raise MalformedError(f"{reference} has no version", remedy=f"Write for example `{name}@1`.")
    if not digest:
        digest = (await find(bus, reference))[0].digest
    command: ApprovePolicy | RejectPolicy = ApprovePolicy(
        command_id=new_command_id(), name=name, version=version, digest=digest, actor=actor()
    )
    if not approve:
        command = RejectPolicy(
            command_id=command.command_id, name=name, version=version, digest=digest, reason=reason, actor=command.actor
        )
    return await commander.send(command, timeout_s=timeout_s)
