"""Who may publish and hear what on the bus. The one table: tokens, server permissions and documents are made from it."""

from __future__ import annotations

import enum
from typing import Final

from schemas import subjects, topology
from schemas.base import Part

NAME: Final = "{{name()}}"
"""Stands for the holder's own name (of an agent: its subject token); the server fills it in."""


class Role(enum.StrEnum):
    """What an identity is for."""

    PROVISIONER = "provisioner"
    """Creates and changes streams and buckets."""
    REGISTRAR = "registrar"
    VERIFIER = "verifier"
    NOTIFIER = "notifier"
    GATEWAY = "gateway"
    AGENT = "agent"
    ENROLMENT = "enrolment"
    """May ask to be enrolled, nothing else; all new machines may share it."""
    ADMIN = "admin"
    """Everything that a person may do."""
    POLICY_AUTHOR = "policy-author"
    """Publishes and approves policies."""
    OPERATOR = "operator"
    """Puts agents under attestation and changes how they are attested."""
    OBSERVER = "observer"
    """Hears results and revocations: a SIEM, a service that relies on agents."""
    AUDITOR = "auditor"
    """Reads everything that is on the record, changes nothing."""


TENANTS: Final = (Role.ADMIN, Role.POLICY_AUTHOR, Role.OPERATOR, Role.OBSERVER, Role.AUDITOR)
"""The roles of people and of their programs."""


class Grant(Part, kw_only=True, frozen=True):
    """What one role may do on the bus. Everything else is refused by the server."""

    role: Role
    doc: str
    publish: list[str]
    subscribe: list[str]
    replies: int = 0
    """Answers that it may send to each request that reaches it."""
    reply_s: int = 0
    """Seconds in which it may."""
    subscriptions: int = -1
    """Most subscriptions of one connection; -1: no limit."""
    payload: int = -1
    """Largest message in bytes; -1: the server's limit."""


def inbox(role: Role, name: str = NAME) -> str:
    """Return the prefix of the inboxes of ``name``: replies reach nobody else."""
    return f"_INBOX_{role}.{name}"


_API: Final = "$JS.API."


def _own_inbox(role: Role) -> list[str]:
    return [inbox(role) + ".>"]


def _read(*streams: str) -> list[str]:
    """Return what reads stored messages and changes nothing, not even a consumer."""
    return [f"{_API}DIRECT.GET.{stream}" for stream in streams] + [f"{_API}STREAM.INFO.{stream}" for stream in streams]


def _consume(*streams: str) -> list[str]:
    granted = []
    for stream in streams:
        granted += [f"{_API}CONSUMER.{verb}.{stream}.>" for verb in ("CREATE", "INFO", "DELETE", "MSG.NEXT")]
        granted.append(f"$JS.ACK.{stream}.>")
    return granted


def _bucket(bucket: topology.Bucket) -> str:
    return f"KV_{bucket.name}"


_CLUSTER: Final = _bucket(topology.CLUSTER)
_POLICIES: Final = f"OBJ_{topology.POLICIES}"
_RECORD: Final = (topology.EVENTS.name, topology.RESULTS.name, topology.REVOCATIONS.name)
_QUERIES: Final = [
    subjects.QUERY_REGISTRAR_AGENT,
    subjects.QUERY_REGISTRAR_AGENTS,
    subjects.QUERY_VERIFIER_AGENT,
    subjects.QUERY_VERIFIER_AGENTS,
]
_OBJECTS: Final = [f"$O.{topology.POLICIES}.C.>", f"$O.{topology.POLICIES}.M.>"]

GRANTS: Final = (
    Grant(
        role=Role.PROVISIONER,
        doc="Brings streams and buckets into being and into line with their declaration. Used by `init`, `up` and upgrades.",
        publish=[f"{_API}STREAM.>", f"{_API}INFO", f"{_API}DIRECT.GET.{_CLUSTER}.>", f"$KV.{topology.CLUSTER.name}.>"],
        subscribe=_own_inbox(Role.PROVISIONER),
    ),
    Grant(
        role=Role.REGISTRAR,
        doc="Enrols agents, answers who they are, issues and ends their identities on the bus, records all of it.",
        publish=[
            subjects.events_of_kind("*"),
            subjects.dead("*"),
            f"$KV.{topology.CLUSTER.name}.>",
            *_read(topology.EVENTS.name, topology.RESULTS.name, _CLUSTER),
            *_consume(topology.EVENTS.name),
        ],
        subscribe=["att.registrar.>", "att.query.registrar.>", *_own_inbox(Role.REGISTRAR)],
        replies=1,
        reply_s=30,
    ),
    Grant(
        role=Role.VERIFIER,
        doc="Challenges agents, appraises their evidence, executes commands, and alone writes results.",
        publish=[
            subjects.challenge_of("*"),
            subjects.EVENTS,
            subjects.RESULTS,
            subjects.RESULT_FENCES,
            subjects.dead("*"),
            subjects.QUERY_REGISTRAR_AGENT,
            *(f"$KV.{bucket.name}.>" for bucket in topology.BUCKETS),
            *_read(*_RECORD[:2], _POLICIES, *(_bucket(bucket) for bucket in topology.BUCKETS)),
            *_consume(topology.EVIDENCE.name, topology.COMMANDS.name),
            *(inbox(role, ">") for role in (Role.ADMIN, Role.POLICY_AUTHOR, Role.OPERATOR, Role.GATEWAY)),
        ],
        subscribe=["att.query.verifier.>", *_own_inbox(Role.VERIFIER)],
        replies=1,
        reply_s=30,
    ),
    Grant(
        role=Role.NOTIFIER,
        doc="Signs revocations and delivers them.",
        publish=[
            subjects.REVOCATIONS,
            subjects.dead("*"),
            f"$KV.{topology.CLUSTER.name}.keys.notifier.*",
            *_read(*_RECORD, _CLUSTER),
            *_consume(topology.EVENTS.name, topology.REVOCATIONS.name),
        ],
        subscribe=_own_inbox(Role.NOTIFIER),
    ),
    Grant(
        role=Role.GATEWAY,
        doc="Turns HTTP requests into commands and queries; holds no keys of others.",
        publish=[subjects.COMMAND_IN, *_QUERIES, *_OBJECTS, *_read(*_RECORD, _CLUSTER, _POLICIES)],
        subscribe=[subjects.REVOKED, *_own_inbox(Role.GATEWAY)],
    ),
    Grant(
        role=Role.AGENT,
        doc="One machine: its own evidence, its own orders, the revocations, its next identity.",
        publish=[
            f"att.evidence.{NAME}",
            subjects.REGISTRAR_ENROL,
            subjects.REGISTRAR_ACTIVATE,
            f"att.registrar.renew.{NAME}",
            f"{_API}DIRECT.GET.{topology.REVOCATIONS.name}",
        ],
        subscribe=[f"att.agent.{NAME}.>", subjects.REVOKED, *_own_inbox(Role.AGENT)],
        replies=1,
        reply_s=60,
        subscriptions=64,
        payload=1 << 20,
    ),
    Grant(
        role=Role.ENROLMENT,
        doc="Machines that have no identity yet: they may ask to be enrolled.",
        publish=[subjects.REGISTRAR_ENROL, subjects.REGISTRAR_ACTIVATE],
        subscribe=_own_inbox(Role.ENROLMENT),
        subscriptions=16,
        payload=1 << 17,
    ),
    Grant(
        role=Role.ADMIN,
        doc="Everything that a person may do.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            subjects.REGISTRAR_DELETE,
            subjects.REGISTRAR_ROSTER,
            *_OBJECTS,
            f"{_API}STREAM.PURGE.{_POLICIES}",
            *_read(*_RECORD, topology.DEAD.name, _POLICIES, *(_bucket(bucket) for bucket in topology.BUCKETS)),
            *_consume(*_RECORD, topology.DEAD.name),
        ],
        subscribe=_own_inbox(Role.ADMIN),
    ),
    Grant(
        role=Role.POLICY_AUTHOR,
        doc="Publishes and approves policies.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            *_OBJECTS,
            f"{_API}STREAM.PURGE.{_POLICIES}",
            *_read(*_RECORD, _POLICIES, *(_bucket(bucket) for bucket in topology.BUCKETS)),
        ],
        subscribe=_own_inbox(Role.POLICY_AUTHOR),
    ),
    Grant(
        role=Role.OPERATOR,
        doc="Puts agents under attestation and changes how they are attested.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            subjects.REGISTRAR_DELETE,
            *_read(*_RECORD, _POLICIES, *(_bucket(bucket) for bucket in topology.BUCKETS)),
            *_consume(*_RECORD),
        ],
        subscribe=_own_inbox(Role.OPERATOR),
    ),
    Grant(
        role=Role.OBSERVER,
        doc="Hears results and revocations: a SIEM, or a service that relies on agents.",
        publish=[*_read(topology.RESULTS.name, topology.REVOCATIONS.name, _CLUSTER)],
        subscribe=[subjects.REVOKED, *_own_inbox(Role.OBSERVER)],
    ),
    Grant(
        role=Role.AUDITOR,
        doc="Reads everything that is on the record and changes nothing.",
        publish=[
            *_QUERIES,
            *_read(*_RECORD, topology.DEAD.name, _POLICIES, *(_bucket(bucket) for bucket in topology.BUCKETS)),
        ],
        subscribe=[subjects.REVOKED, *_own_inbox(Role.AUDITOR)],
    ),
)
"""All roles, each with all that it may do in the installation's account."""


def grant(role: Role) -> Grant:
    """Return what ``role`` may do."""
    return next(grant for grant in GRANTS if grant.role is role)
