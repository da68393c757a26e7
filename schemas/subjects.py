"""Every subject, header and token rule of the bus, spelled once."""

from __future__ import annotations

import re
from typing import Final

from schemas.base import SchemaError

PARTITIONS: Final = 64
"""Number of partitions of a cluster, fixed when it is initialised."""

AGENT_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,80}\Z", re.ASCII)
POLICY_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z", re.ASCII)

INBOX: Final = re.compile(r"_INBOX(_[a-z-]{1,32})?(\.[A-Za-z0-9_$%-]{1,250}){1,5}\Z", re.ASCII)
"""Where answers may be sent, and what their signatures may be made for."""

# Request and reply (queue groups).
REGISTRAR_ENROL: Final = "att.registrar.enrol"
REGISTRAR_ACTIVATE: Final = "att.registrar.activate"
QUERY_REGISTRAR_AGENT: Final = "att.query.registrar.agent"
QUERY_REGISTRAR_AGENTS: Final = "att.query.registrar.agents"
REGISTRAR_RENEWALS: Final = "att.registrar.renew.*"
REGISTRAR_ROSTER: Final = "att.registrar.roster"
REGISTRAR_DELETE: Final = "att.query.registrar.delete"
QUERY_VERIFIER_AGENT: Final = "att.query.verifier.agent"
QUERY_VERIFIER_AGENTS: Final = "att.query.verifier.agents"
VERIFIER_WORKERS: Final = "att.query.verifier.worker.*"
VERIFIER_REBALANCE: Final = "att.query.verifier.rebalance"

# Wildcards that streams and consumers bind to.
EVIDENCE_IN: Final = "att.evidence.*"
EVIDENCE_STORED: Final = "att.evidence.*.*"
COMMAND_IN: Final = "att.command.*"
COMMAND_STORED: Final = "att.command.*.*"
EVENTS: Final = "att.event.>"
EVENT_FENCES: Final = "att.event.fence.*"
RESULTS: Final = "att.result.*"
RESULT_FENCES: Final = "att.resultfence.*"
REVOCATIONS: Final = "att.revocation.*"
REVOKED: Final = "att.revoked.*"
DEAD: Final = "att.dead.*"
ARCHIVE: Final = "att.archive.*.*"
ARCHIVED_EVIDENCE: Final = "att.archive.evidence.*"

# Headers.
HEADER_MESSAGE_ID: Final = "Nats-Msg-Id"
HEADER_REPLY_TO: Final = "Attestream-Reply-To"
HEADER_CONTENT_TYPE: Final = "Content-Type"
CONTENT_TYPE: Final = "application/vnd.attestream+msgpack"
HEADER_TTL: Final = "Nats-TTL"
HEADER_EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
HEADER_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
HEADER_MARKER: Final = "Nats-Marker-Reason"
HEADER_SEQUENCE: Final = "Nats-Sequence"
HEADER_REQUEST_INFO: Final = "Nats-Request-Info"
HEADER_SIGNATURE: Final = "Attestream-Signature"
"""``<key id>.<algorithm>.<signed at, Unix ms>.<base64url>``: see :mod:`schemas.trust`."""

_UNSAFE: Final = re.compile(r"[.*>% ]")
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2})")


def token(id_: str) -> str:
    """Return ``id_`` as one subject token: ``.``, ``*``, ``>``, space and ``%`` become ``%XX``.

    :raises SchemaError: when it is not 1-80 characters of ``[A-Za-z0-9._-]``.
    """
    if not AGENT_ID.match(id_):
        raise SchemaError(f"{id_[:100]!r} is not an agent id: 1-80 characters of A-Z a-z 0-9 . _ -")
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", id_)


def agent_id(token_: str) -> str:
    """Return the agent id that :func:`token` made ``token_`` from.

    :raises SchemaError: when ``token_`` is not such a token.
    """
    text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), token_)
    if not AGENT_ID.match(text) or token(text) != token_:
        raise SchemaError(f"{token_[:100]!r} is not an agent's subject token")
    return text


def worker_orders(name: str) -> str:
    """Return where verifier worker ``name`` is told to give its partitions away, or to take some again (request)."""
    return f"att.query.verifier.worker.{token(name)}"


def renewal(id_: str) -> str:
    """Return where agent ``id_`` asks for its next identity on the bus (request)."""
    return f"att.registrar.renew.{token(id_)}"


def challenge(id_: str) -> str:
    """Return where the owner's challenges reach agent ``id_`` (core request)."""
    return challenge_of(token(id_))


def challenge_of(token_: str) -> str:
    """Return :func:`challenge` for an agent whose :func:`token` is known already."""
    return f"att.agent.{token_}.challenge"


def agent_orders(id_: str) -> str:
    """Return the wildcard over everything that is addressed to agent ``id_``."""
    return f"att.agent.{token(id_)}.>"


def evidence(id_: str) -> str:
    """Return where agent ``id_`` publishes news; the stream stores it under :func:`evidence_partition`."""
    return f"att.evidence.{token(id_)}"


def evidence_partition(partition: int) -> str:
    """Return the filter of partition ``partition`` in EVIDENCE."""
    return f"att.evidence.{partition}.*"


def command(id_: str) -> str:
    """Return where commands about agent (or policy) ``id_`` are published."""
    return f"att.command.{token(id_)}"


def command_partition(partition: int) -> str:
    """Return the filter of partition ``partition`` in COMMANDS."""
    return f"att.command.{partition}.*"


def event(kind: str, id_: str) -> str:
    """Return the subject of an event of ``kind`` (a value of :class:`schemas.events.EventKind`) about ``id_``."""
    return f"att.event.{kind}.{token(id_)}"


def events_of_kind(kind: str) -> str:
    """Return the wildcard over the events of ``kind`` about everybody."""
    return f"att.event.{kind}.*"


def events_of(id_: str) -> str:
    """Return the wildcard over every kind of event about ``id_``."""
    return f"att.event.*.{token(id_)}"


def event_fence(partition: int) -> str:
    """Return the subject in EVENTS whose last sequence is the fencing token of ``partition``."""
    return f"att.event.fence.{partition}"


def result(id_: str) -> str:
    """Return the subject that holds the attestation result of ``id_``."""
    return f"att.result.{token(id_)}"


def result_fence(partition: int) -> str:
    """Return the subject in RESULTS whose last sequence is the fencing token of ``partition``."""
    return f"att.resultfence.{partition}"


def revocation(id_: str) -> str:
    """Return the subject in REVOCATIONS for ``id_``."""
    return f"att.revocation.{token(id_)}"


def revoked(id_: str) -> str:
    """Return the core subject under which a stored revocation of ``id_`` is republished to agents."""
    return f"att.revoked.{token(id_)}"


def archived_evidence(id_: str) -> str:
    """Return the subject in ARCHIVE under which the kept evidence of ``id_`` is listed."""
    return f"att.archive.evidence.{token(id_)}"


def archived_log(id_: str) -> str:
    """Return the subject in ARCHIVE that has the kept IMA log of ``id_``."""
    return f"att.archive.log.{token(id_)}"


def published(subject: str) -> str:
    """Return the subject on which the author of a stored message published it.

    The server puts a partition into the subjects of evidence and commands; signatures cover what the author wrote.
    """
    match subject.split("."):
        case ["att", "command" | "evidence" as kind, partition, name] if partition.isdigit():
            return f"att.{kind}.{name}"
    return subject


def dead(stream: str) -> str:
    """Return where what can not be processed from ``stream`` goes."""
    return f"att.dead.{stream}"
