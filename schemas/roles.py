"""Who may publish and hear what on the bus. The one table: tokens, server permissions and documents are made from it.

Rules behind the table. Only services have consumers; everybody else reads by direct get, which leaves nothing on the
server. Services answer to inboxes and to ``_R_.>`` (from where the server carries answers over into the asker's account) and
nowhere else, so that no asker can make them publish for it. An agent may answer each challenge once, under the reply subject
that came with it.
"""

from __future__ import annotations

import enum
from typing import Final

from schemas import subjects, topology
from schemas.base import Part
from schemas.events import EventKind

NAME: Final = "{{name()}}"
"""Stands for the holder's own name (of an agent: its subject token); the server fills it in."""


class Role(enum.StrEnum):
    """What an identity is for."""

    PROVISIONER = "provisioner"
    """Creates and changes streams and buckets."""
    REGISTRAR = "registrar"
    """Enrols agents and answers who they are."""
    VERIFIER = "verifier"
    """Challenges agents and judges their evidence."""
    NOTIFIER = "notifier"
    """Signs and delivers revocations."""
    BACKUP = "backup"
    """Copies the streams; its identities are made for one back-up and expire with it."""
    RESTORER = "restorer"
    """Makes an empty bus what a back-up was; its identities are made for one restore."""
    GATEWAY = "gateway"
    """Turns HTTP requests into commands and queries."""
    AGENT = "agent"
    """One machine that is attested."""
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


SERVICES: Final = (Role.PROVISIONER, Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER, Role.BACKUP, Role.RESTORER)
"""The roles that live in the account of the streams; each other role has its own account (:mod:`schemas.accounts`)."""

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
    connections: int = -1
    """Most connections of one identity at a time; beyond them the registrar has the oldest closed. -1: no limit."""


def inbox(role: Role, name: str = NAME) -> str:
    """Return the prefix of the inboxes of ``name``: replies reach nobody else."""
    return f"_INBOX_{role}.{name}"


REGISTRAR_EVENTS: Final = tuple(
    kind for kind in EventKind if kind.startswith(("enrolled", "re-enrolled", "identity-", "operator-", "key-", "roster-"))
)
"""Kinds of events that the registrar puts on the record; all others are the verifiers' or the notifier's."""

NOTIFIER_EVENTS: Final = (EventKind.CAPACITY,)

VERIFIER_EVENTS: Final = tuple(kind for kind in EventKind if kind not in (*REGISTRAR_EVENTS, *NOTIFIER_EVENTS))

_API: Final = "$JS.API."
_ANSWERS: Final = "_R_.>"
"""Answers to requests that came from another account."""


def _own_inbox(role: Role) -> list[str]:
    return [inbox(role) + ".>"]


def _inboxes(*roles: Role) -> list[str]:
    return [inbox(role, ">") for role in roles]


def _read(*streams: str) -> list[str]:
    """Return what reads stored messages and changes nothing, not even a consumer."""
    return [f"{_API}DIRECT.GET.{stream}" for stream in streams]


def _read_last(*streams: str) -> list[str]:
    """Return what asks the leader of a stream, which can not be behind."""
    return [f"{_API}STREAM.MSG.GET.{stream}" for stream in streams]


def _check(*streams: str) -> list[str]:
    """Return what compares streams with their declaration."""
    return [f"{_API}STREAM.INFO.{stream}" for stream in streams]


def _consume(stream: str, name: str, filter_: str, *, delete: bool = False) -> list[str]:
    """Return what a durable or passing consumer needs that has one filter. The server compares name and filter in the
    subject with the request, so that nothing wider than ``filter_`` can be consumed."""
    verbs = ("INFO", "MSG.NEXT", "DELETE") if delete else ("INFO", "MSG.NEXT")
    return [
        f"{_API}CONSUMER.CREATE.{stream}.{name}.{filter_}",
        *(f"{_API}CONSUMER.{verb}.{stream}.{name}" for verb in verbs),
        f"$JS.ACK.{stream}.{name}.>",
    ]


def _bucket(bucket: topology.Bucket) -> str:
    return f"KV_{bucket.name}"


def _key(bucket: topology.Bucket, key: str) -> str:
    return f"$KV.{bucket.name}.{key}"


_EVIDENCE: Final = topology.EVIDENCE.name
_COMMANDS: Final = topology.COMMANDS.name
_EVENTS: Final = topology.EVENTS.name
_RESULTS: Final = topology.RESULTS.name
_REVOCATIONS: Final = topology.REVOCATIONS.name
_DEAD: Final = topology.DEAD.name
_ARCHIVE: Final = (topology.ARCHIVE.name, topology.ARCHIVE_OBJECTS.name)
_CLUSTER: Final = _bucket(topology.CLUSTER)
_LEASES: Final = _bucket(topology.LEASES)
_WORKERS: Final = _bucket(topology.WORKERS)
_POLICIES: Final = f"OBJ_{topology.POLICIES}"
_STREAMS: Final = (
    *(stream.name for stream in topology.STREAMS),
    *(_bucket(bucket) for bucket in topology.BUCKETS),
    *(f"OBJ_{name}" for name in topology.OBJECT_BUCKETS),
)
_QUERIES: Final = (
    subjects.QUERY_REGISTRAR_AGENT,
    subjects.QUERY_REGISTRAR_AGENTS,
    subjects.QUERY_VERIFIER_AGENT,
    subjects.QUERY_VERIFIER_AGENTS,
)
_POOL: Final = (subjects.VERIFIER_WORKERS, subjects.VERIFIER_REBALANCE)
_OBJECTS: Final = (f"$O.{topology.POLICIES}.C.*", f"$O.{topology.POLICIES}.M.*")
_ARCHIVED: Final = (subjects.ARCHIVE, f"$O.{topology.ARCHIVE_BUCKET}.C.*", f"$O.{topology.ARCHIVE_BUCKET}.M.*")
_ROSTER: Final = f"{_API}DIRECT.GET.{_CLUSTER}.{_key(topology.CLUSTER, topology.KEY_ROSTER)}"
"""Reading the roster, and no other key: what everybody needs who checks signatures."""
_LIVE: Final = (subjects.RESULTS, subjects.EVENTS, subjects.REVOKED)
"""What tells a reader that there is something new to read."""

_PROGRAMS: Final = 64
"""Connections of a person, or of a program that runs several times."""

GRANTS: Final = (
    Grant(
        role=Role.PROVISIONER,
        doc="Brings streams and buckets into being and into line with their declaration. Used by `init`, `up` and upgrades.",
        publish=[
            *(f"{_API}STREAM.{verb}.{stream}" for stream in _STREAMS for verb in ("INFO", "CREATE", "UPDATE")),
            *_read_last(_CLUSTER),
            _key(topology.CLUSTER, topology.KEY_PARTITIONS),
            _key(topology.CLUSTER, topology.KEY_ROSTER),
        ],
        subscribe=_own_inbox(Role.PROVISIONER),
    ),
    Grant(
        role=Role.BACKUP,
        doc="Copies streams as they are. Nobody holds it for long: `attestream backup create` makes an identity for itself.",
        publish=[
            *_check(*_STREAMS),
            *(f"{_API}STREAM.SNAPSHOT.{stream}" for stream in _STREAMS),
            *(f"$JS.SNAPSHOT.ACK.{stream}.*" for stream in _STREAMS),
        ],
        subscribe=_own_inbox(Role.BACKUP),
    ),
    Grant(
        role=Role.RESTORER,
        doc="Deletes streams and makes them from a copy. Nobody holds it for long: `attestream backup restore` makes an "
        "identity for itself.",
        publish=[
            *_check(*_STREAMS),
            *_read(_WORKERS),
            *(f"{_API}STREAM.{verb}.{stream}" for stream in _STREAMS for verb in ("DELETE", "RESTORE")),
            *(f"$JS.SNAPSHOT.RESTORE.{stream}.*" for stream in _STREAMS),
        ],
        subscribe=_own_inbox(Role.RESTORER),
    ),
    Grant(
        role=Role.REGISTRAR,
        doc="Enrols agents, answers who they are, issues and ends their identities on the bus, records all of it.",
        publish=[
            *(subjects.events_of_kind(kind) for kind in REGISTRAR_EVENTS),
            subjects.dead(_EVENTS),
            _key(topology.CLUSTER, topology.KEY_ROSTER),
            *_read(_EVENTS, _RESULTS, _CLUSTER),
            *_read_last(_CLUSTER),
            *_check(*_STREAMS),
            _ROSTER,
            _ANSWERS,
            *_inboxes(Role.VERIFIER),
            *_consume(_EVENTS, "registrar", subjects.events_of_kind("*")),
        ],
        subscribe=["att.registrar.>", "att.query.registrar.>", *_LIVE[:2], *_own_inbox(Role.REGISTRAR)],
    ),
    Grant(
        role=Role.VERIFIER,
        doc="Challenges agents, appraises their evidence, executes commands, and alone writes results.",
        publish=[
            subjects.challenge_of("*"),
            *(subjects.events_of_kind(kind) for kind in VERIFIER_EVENTS),
            subjects.EVENT_FENCES,
            subjects.RESULTS,
            subjects.RESULT_FENCES,
            subjects.dead(_EVIDENCE),
            subjects.dead(_COMMANDS),
            subjects.QUERY_REGISTRAR_AGENT,
            _key(topology.CLUSTER, topology.policy_keys()),
            _key(topology.LEASES, "*"),
            _key(topology.WORKERS, "*"),
            *_ARCHIVED,
            *_read(_EVENTS, _RESULTS, _POLICIES, _CLUSTER, _LEASES, _WORKERS, *_ARCHIVE),
            *_read_last(_EVENTS, _RESULTS, _POLICIES, _CLUSTER, _LEASES, _WORKERS, _ARCHIVE[1]),
            *_check(*_STREAMS),
            *_consume(_EVIDENCE, "*", subjects.EVIDENCE_STORED, delete=True),
            *_consume(_COMMANDS, "*", subjects.COMMAND_STORED, delete=True),
            _ROSTER,
            _ANSWERS,
            *_inboxes(*TENANTS[:3], Role.GATEWAY),
            *_own_inbox(Role.VERIFIER),
        ],
        subscribe=[
            "att.query.verifier.>",
            _key(topology.WORKERS, "*"),
            _key(topology.LEASES, topology.KEY_PLAN),
            *_own_inbox(Role.VERIFIER),
        ],
    ),
    Grant(
        role=Role.NOTIFIER,
        doc="Signs revocations and delivers them.",
        publish=[
            subjects.REVOCATIONS,
            *(subjects.events_of_kind(kind) for kind in NOTIFIER_EVENTS),
            f"{_API}INFO",
            subjects.dead(_EVENTS),
            subjects.dead(_REVOCATIONS),
            _key(topology.CLUSTER, f"{topology.KEY_NOTIFIER}.*"),
            *_read(_REVOCATIONS, _CLUSTER),
            *_read_last(_CLUSTER),
            *_check(*_STREAMS),
            _ROSTER,
            *_consume(_EVENTS, "notifier", subjects.events_of_kind(EventKind.FAILED)),
            *_consume(_REVOCATIONS, "*", subjects.REVOCATIONS),
        ],
        subscribe=_own_inbox(Role.NOTIFIER),
    ),
    Grant(
        role=Role.GATEWAY,
        doc="Turns HTTP requests into commands and queries; holds no keys of others.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            *_OBJECTS,
            *_read(_EVENTS, _RESULTS, _REVOCATIONS, _CLUSTER, _WORKERS, _POLICIES),
            _ROSTER,
        ],
        subscribe=[*_LIVE, *_own_inbox(Role.GATEWAY)],
        connections=_PROGRAMS,
    ),
    Grant(
        role=Role.AGENT,
        doc="One machine: its own evidence, its own orders, the revocations, its next identity.",
        publish=[
            f"att.evidence.{NAME}",
            subjects.REGISTRAR_ENROL,
            subjects.REGISTRAR_ACTIVATE,
            f"att.registrar.renew.{NAME}",
            *_read(_REVOCATIONS),
            _ROSTER,
        ],
        subscribe=[f"att.agent.{NAME}.>", subjects.REVOKED, *_own_inbox(Role.AGENT)],
        replies=1,
        reply_s=60,
        subscriptions=64,
        payload=1 << 20,
        # One, and those that a network has cut before the server has noticed it.
        connections=3,
    ),
    Grant(
        role=Role.ENROLMENT,
        doc="Machines that have no identity yet: they may ask to be enrolled.",
        publish=[subjects.REGISTRAR_ENROL, subjects.REGISTRAR_ACTIVATE, _ROSTER],
        subscribe=_own_inbox(Role.ENROLMENT),
        subscriptions=16,
        payload=1 << 17,
        # Of all new machines together. Enrolling takes a moment: the oldest are none that somebody needs.
        connections=8_000,
    ),
    Grant(
        role=Role.ADMIN,
        doc="Everything that a person may do.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            subjects.REGISTRAR_DELETE,
            *_POOL,
            subjects.REGISTRAR_ROSTER,
            *_OBJECTS,
            *_read(_EVENTS, _RESULTS, _REVOCATIONS, _DEAD, _CLUSTER, _WORKERS, _POLICIES, *_ARCHIVE),
            _ROSTER,
        ],
        subscribe=[*_LIVE, *_own_inbox(Role.ADMIN)],
        connections=_PROGRAMS,
    ),
    Grant(
        role=Role.POLICY_AUTHOR,
        doc="Publishes and approves policies.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            *_OBJECTS,
            *_read(_EVENTS, _RESULTS, _REVOCATIONS, _CLUSTER, _WORKERS, _POLICIES),
            _ROSTER,
        ],
        subscribe=[*_LIVE, *_own_inbox(Role.POLICY_AUTHOR)],
        connections=_PROGRAMS,
    ),
    Grant(
        role=Role.OPERATOR,
        doc="Puts agents under attestation and changes how they are attested.",
        publish=[
            subjects.COMMAND_IN,
            *_QUERIES,
            subjects.REGISTRAR_DELETE,
            *_POOL,
            *_read(_EVENTS, _RESULTS, _REVOCATIONS, _CLUSTER, _WORKERS, _POLICIES, *_ARCHIVE),
            _ROSTER,
        ],
        subscribe=[*_LIVE, *_own_inbox(Role.OPERATOR)],
        connections=_PROGRAMS,
    ),
    Grant(
        role=Role.OBSERVER,
        doc="Hears results and revocations: a SIEM, or a service that relies on agents.",
        publish=[*_read(_RESULTS, _REVOCATIONS), _ROSTER],
        subscribe=[subjects.RESULTS, subjects.REVOKED, *_own_inbox(Role.OBSERVER)],
        connections=_PROGRAMS,
    ),
    Grant(
        role=Role.AUDITOR,
        doc="Reads everything that is on the record and changes nothing.",
        publish=[
            *_QUERIES,
            *_read(_EVENTS, _RESULTS, _REVOCATIONS, _DEAD, _CLUSTER, _WORKERS, _POLICIES, *_ARCHIVE),
            _ROSTER,
        ],
        subscribe=[*_LIVE, *_own_inbox(Role.AUDITOR)],
        connections=_PROGRAMS,
    ),
)
"""All roles, each with all that it may do."""


def grant(role: Role) -> Grant:
    """Return what ``role`` may do."""
    return next(grant for grant in GRANTS if grant.role is role)
