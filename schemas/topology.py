"""Streams and buckets of a cluster, declared once; ``attestream.bus`` creates and reconciles them at start."""

from __future__ import annotations

from typing import Final

from schemas import subjects
from schemas.attestation import MAX_PARTS, PART_BYTES
from schemas.base import Part


class Transform(Part, kw_only=True, frozen=True):
    """A subject transform of the server."""

    source: str
    target: str


class Stream(Part, kw_only=True, frozen=True):
    """A JetStream stream. Times are in seconds, sizes in bytes; 0 means no limit."""

    name: str
    doc: str
    subjects: list[str]
    work_queue: bool = False
    transform: Transform | None = None
    republish: Transform | None = None
    max_age_s: int = 0
    max_bytes: int = 0
    """Default size; ``[limits]`` of the configuration may set another."""
    max_message_bytes: int = 0
    refuses_when_full: bool = True
    """What a full stream does: refuse what is new, or forget what is oldest."""
    max_per_subject: int = 0
    """Messages of one subject that are kept; what happens with more is what happens in a full stream."""
    last_per_subject: bool = False
    message_ttl: bool = False
    marker_ttl_s: int = 0
    """How long a delete marker announces an expired message; 0: none is made."""
    duplicate_window_s: int = 120
    deny_delete: bool = False


class Bucket(Part, kw_only=True, frozen=True):
    """A key-value bucket. Per-key lifetimes are given with each write."""

    name: str
    doc: str
    in_memory: bool = False
    message_ttl: bool = False
    marker_ttl_s: int = 0


_DAY: Final = 86_400
_MIB: Final = 1 << 20

EVIDENCE_PER_AGENT: Final = MAX_PARTS + 128
"""Messages of one agent that may wait in EVIDENCE: the largest evidence and notices beside it. Who sends more is
refused, and nobody else."""
EVIDENCE_MESSAGE_BYTES: Final = PART_BYTES + 65_536
"""Largest message in EVIDENCE: a part, or the claims of evidence without parts."""

EVIDENCE: Final = Stream(
    name="EVIDENCE",
    doc="Evidence that carries news, hellos and change notices; acknowledged after their effects are on the record.",
    subjects=[subjects.EVIDENCE_IN],
    work_queue=True,
    transform=Transform(
        source=subjects.EVIDENCE_IN,
        target=f"att.evidence.{{{{partition({subjects.PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}",
    ),
    max_age_s=_DAY,
    max_bytes=2048 * _MIB,
    max_message_bytes=EVIDENCE_MESSAGE_BYTES,
    max_per_subject=EVIDENCE_PER_AGENT,
    duplicate_window_s=30,
)
COMMANDS: Final = Stream(
    name="COMMANDS",
    doc="Tenant commands, executed in order by the owner of the partition.",
    subjects=[subjects.COMMAND_IN],
    work_queue=True,
    transform=Transform(
        source=subjects.COMMAND_IN,
        target=f"att.command.{{{{partition({subjects.PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}",
    ),
    max_age_s=7 * _DAY,
    max_bytes=128 * _MIB,
    max_per_subject=1000,
)
EVENTS: Final = Stream(
    name="EVENTS",
    doc="Every change of standing: the record.",
    subjects=[subjects.EVENTS],
    max_age_s=400 * _DAY,
    max_bytes=4096 * _MIB,
)
RESULTS: Final = Stream(
    name="RESULTS",
    doc="The last attestation result of each agent. A message lives as long as its lease; the server announces its end.",
    subjects=[subjects.RESULTS, subjects.RESULT_FENCES],
    last_per_subject=True,
    message_ttl=True,
    marker_ttl_s=_DAY,
)
REVOCATIONS: Final = Stream(
    name="REVOCATIONS",
    doc="Signed revocations, also republished to connected agents.",
    subjects=[subjects.REVOCATIONS],
    republish=Transform(source=subjects.REVOCATIONS, target="att.revoked.{{wildcard(1)}}"),
    max_age_s=400 * _DAY,
    max_bytes=512 * _MIB,
    deny_delete=True,
)
DEAD: Final = Stream(
    name="DEAD",
    doc="What could not be processed, with the reason.",
    subjects=[subjects.DEAD],
    max_age_s=30 * _DAY,
    max_bytes=256 * _MIB,
    # It must take what other streams have to be rid of; and what is malformed in one stream must not push out the others'.
    refuses_when_full=False,
    max_per_subject=2000,
)
ARCHIVE: Final = Stream(
    name="ARCHIVE",
    doc="Index of kept evidence, and the kept IMA logs. Each message lives as long as the policy in use says.",
    subjects=[subjects.ARCHIVE],
    max_age_s=400 * _DAY,
    max_bytes=128 * _MIB,
    refuses_when_full=False,
    max_per_subject=20_000,
    message_ttl=True,
)
ARCHIVE_BUCKET: Final = "evidence"
"""Object bucket of kept evidence, each object named by its SHA-256."""
ARCHIVE_OBJECTS: Final = Stream(
    name=f"OBJ_{ARCHIVE_BUCKET}",
    doc="The object bucket of kept evidence and of large pieces of IMA logs.",
    subjects=[f"$O.{ARCHIVE_BUCKET}.C.>", f"$O.{ARCHIVE_BUCKET}.M.>"],
    max_age_s=400 * _DAY,
    max_bytes=896 * _MIB,
    refuses_when_full=False,
    message_ttl=True,
)
STREAMS: Final = (EVIDENCE, COMMANDS, EVENTS, RESULTS, REVOCATIONS, DEAD, ARCHIVE, ARCHIVE_OBJECTS)

CLUSTER: Final = Bucket(name="attestream", doc="Cluster facts: partition count, policies by name, public keys.")
WORKERS: Final = Bucket(name="workers", doc="Heartbeats of verifier workers.", message_ttl=True, marker_ttl_s=5)
LEASES: Final = Bucket(name="leases", doc="Who owns which partition.", message_ttl=True, marker_ttl_s=5)
BUCKETS: Final = (CLUSTER, WORKERS, LEASES)

POLICIES: Final = "policies"
"""Object bucket of policy documents, each named by its SHA-256."""
OBJECT_BUCKETS: Final = (POLICIES,)

VERSION: Final = 1
"""Version of this declaration, noted with each stream. It grows when services of the version before can not work with it."""
NOTE_VERSION: Final = "attestream.topology"
"""Name under which a stream's metadata have :data:`VERSION`, as decimal text."""

KEY_PARTITIONS: Final = "partitions"
"""Key in :data:`CLUSTER` with the number of partitions, as decimal text."""
KEY_NOTIFIER: Final = "keys.notifier"
"""Prefix of keys in :data:`CLUSTER`, ``keys.notifier.<key id>``: public keys of the notifier (PEM)."""
KEY_ROSTER: Final = "roster"
"""Key in :data:`CLUSTER` with the roster: a :class:`schemas.events.Signed` envelope by a root key, with a
:class:`schemas.trust.Roster` in it."""
KEY_PLAN: Final = "plan"
"""Key in :data:`LEASES` with the plan of the pool, beside the owners of the partitions."""
KEY_SESSION: Final = "session-"
"""Begins the keys in :data:`LEASES` of workers' sessions, ``session-<32 hexadecimal digits>``."""


def policy_key(name: str, version: int) -> str:
    """Return the key in :data:`CLUSTER` of a policy's version."""
    return f"policy.{name.replace('.', '=')}.{version}"


def policy_keys(name: str = "") -> str:
    """Return the wildcard over the versions of policy ``name``, or of all policies."""
    return f"policy.{name.replace('.', '=')}.*" if name else "policy.*.*"
