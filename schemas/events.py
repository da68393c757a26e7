"""Standing, findings as they travel, events, attestation results and revocations."""

from __future__ import annotations

import enum

from schemas.base import Message, Part


class Standing(enum.StrEnum):
    """What is known of an agent."""

    ENROLLED = "enrolled"
    """The registrar knows it; it is not under attestation."""
    PENDING = "pending"
    """Under attestation, with no appraisal yet that says yes or no."""
    TRUSTED = "trusted"
    """The last appraisal was good."""
    UNREACHABLE = "unreachable"
    """It does not answer its challenges."""
    FAILED = "failed"
    """An appraisal ended trust."""
    STOPPED = "stopped"
    """An operator has paused attestation."""
    UNKNOWN = "unknown"
    """The result's lease has lapsed, or there never was one. Never stored: it is how absence reads."""


class EventKind(enum.StrEnum):
    """The third token of an event's subject."""

    ENROLLED = "enrolled"
    """The registrar has proven a new agent."""
    RE_ENROLLED = "re-enrolled"
    """The same TPM has proven itself again, with the same or another AK."""
    IDENTITY_DELETED = "identity-deleted"
    """The registrar has removed an enrolment."""
    ADDED = "added"
    """An agent was put under attestation."""
    UPDATED = "updated"
    """Its policy or interval was changed."""
    DELETED = "deleted"
    """It is not attested any more."""
    TRUSTED = "trusted"
    """First good appraisal after pending."""
    RECOVERED = "recovered"
    """Good again after failed or unreachable."""
    FAILED = "failed"
    """Trust has ended: the notifier turns this into a revocation."""
    WARNED = "warned"
    """A finding that does not end trust has appeared."""
    UNREACHABLE = "unreachable"
    """Challenges stay unanswered."""
    LAPSED = "lapsed"
    """A result expired before it was renewed."""
    STOPPED = "stopped"
    """An operator has paused attestation."""
    STARTED = "started"
    """An operator has resumed it."""
    REFUSED = "refused"
    """Evidence that could not be tied to a live challenge was thrown away; the standing is unchanged."""
    POLICY_PUBLISHED = "policy-published"
    """A policy has a new version. The subject's last token is the policy's name."""
    POLICY_PROPOSED = "policy-proposed"
    """A policy has a new version that can not be used before another person has approved it. Subject as above."""
    POLICY_APPROVED = "policy-approved"
    """A second person has approved it. Subject as above."""
    POLICY_REJECTED = "policy-rejected"
    """It was rejected, or taken back by its author. Subject as above."""
    CAPACITY = "capacity"
    """A stream, the account's storage or a disk is nearly full. The subject's last token is the place."""
    OVERLOADED = "overloaded"
    """A worker can not attest its agents as often as asked for: their intervals get longer. The subject's last token is the
    worker's name."""
    RELIEVED = "relieved"
    """It can again. Subject as above."""
    WORKER_DRAINED = "worker-drained"
    """Somebody has told a worker to give its partitions away. Subject as above."""
    WORKER_UNDRAINED = "worker-undrained"
    """Somebody has told it to take part again. Subject as above."""
    WORKERS_REBALANCED = "workers-rebalanced"
    """Somebody has had the partitions shared out anew. The subject's last token is the worker that did it."""
    FORBIDDEN = "forbidden"
    """A command was refused: its author's role does not allow it, or it is older than what was done since."""
    OPERATOR_ADDED = "operator-added"
    """A person's key was put into the roster. The subject's last token is the key's id."""
    OPERATOR_REVOKED = "operator-revoked"
    """A person's key was revoked. The subject's last token is the key's id."""
    KEY_ADDED = "key-added"
    """A service's key was put into the roster. The subject's last token is the key's id."""
    KEY_REVOKED = "key-revoked"
    """A service's key was revoked. The subject's last token is the key's id."""
    ROSTER_ROOT = "roster-root"
    """A root key has given its place to another, whose id is the subject's last token."""
    ROSTER_APPROVALS = "roster-approvals"
    """It was changed how many people a policy needs (``detail``). The subject's last token is the installation's id."""


class Finding(Part, kw_only=True, frozen=True):
    """One thing that appraisal found."""

    code: str
    """Stable, of ``attestream.appraisal.findings``."""
    layer: str
    """``identity``, ``quote``, ``boot``, ``runtime`` or ``limits``."""
    severity: str
    """``info``, ``warning`` or ``failure``."""
    culprit: str
    """The path, PCR or event that is to blame; empty when there is none."""
    message: str
    remedy: str


class Event(Message, kw_only=True, frozen=True, tag="event"):
    """A change that is on the record. Ids are stable: a repeated publication has the same id."""

    id: str
    """Stable: a repeated publication has the same."""
    kind: EventKind
    """What has happened; also a token of the subject."""
    agent_id: str
    """Or what else the kind says: a policy's name, a key's id, the installation's id."""
    at: int
    """Unix time in milliseconds."""
    event_number: int = 0
    """Counts the verifier's events of an agent from 1."""
    enrolment: int = 0
    standing: Standing = Standing.UNKNOWN
    """After the event."""
    before: Standing = Standing.UNKNOWN
    """Before the event."""
    policy: str = ""
    """``name@version``."""
    findings: list[Finding] = []
    command_id: str = ""
    """The command that caused it."""
    command_at: int = 0
    """Unix time in milliseconds at which its author signed the command; 0: nothing is signed here."""
    actor: str = ""
    """Who asked for it: the holder's name in the roster whose key has signed the command or request."""
    actor_key: str = ""
    """Id of that key."""
    detail: str = ""
    """For what has no field of its own: of a key its role and holder, of a refused command the reason."""
    worker: str = ""
    fence: int = 0
    """Fencing token of the partition's owner; 0 for the registrar's events."""
    cause_at: int = 0
    """Unix time in milliseconds at which the evidence behind it was received."""
    recovery: str = ""
    """Of a failure, who ends it by the policy: ``operator``, or ``automatic``, the next good appraisal."""
    interval_ms: int = 0
    """Of ``added`` and ``updated``, the time between heartbeats."""
    lease_ms: int = 0
    """Of ``added`` and ``updated``, the life of a result."""


class Result(Message, kw_only=True, frozen=True, tag="result"):
    """The attestation result of an agent, valid until ``expires_at`` and not a moment longer."""

    agent_id: str
    standing: Standing
    at: int
    """Unix time of the appraisal in milliseconds."""
    expires_at: int
    seq: int
    """Challenge that it rests on."""
    event_number: int
    enrolment: int
    policy: str
    findings: list[Finding] = []
    worker: str
    fence: int


class Revocation(Message, kw_only=True, frozen=True, tag="revocation"):
    """Tells everyone who relied on an agent to stop."""

    id: str
    """Stable: the id of the event that it follows from."""
    agent_id: str
    at: int
    """Unix time of the failing transition in milliseconds."""
    signed_at: int
    """Unix time of the signature in milliseconds."""
    standing: Standing
    enrolment: int
    policy: str
    findings: list[Finding]


class Signed(Message, kw_only=True, frozen=True, tag="signed"):
    """An envelope: ``signature`` by key ``key_id`` over ``b"attestream/signed/1" || algorithm || 0x00 || payload``."""

    payload: bytes
    """The encoded message, exactly as it was signed."""
    key_id: str
    """First 16 hex digits of SHA-256 over the SubjectPublicKeyInfo in DER."""
    algorithm: str
    """``ed25519`` or ``rsa-pss-sha256``."""
    signature: bytes
    """Over :func:`signed_bytes`."""


class DeadLetter(Message, kw_only=True, frozen=True, tag="dead"):
    """A message that can not be processed, with the reason."""

    stream: str
    """Where it came from."""
    subject: str
    """Under which it was stored there."""
    sequence: int
    """Its sequence there."""
    deliveries: int
    """How often it was tried."""
    at: int
    code: str
    message: str
    data: bytes
    """The first 64 KiB of the message."""


def signed_bytes(algorithm: str, payload: bytes) -> bytes:
    """Return what the signature of a :class:`Signed` envelope covers."""
    return b"attestream/signed/1" + algorithm.encode("ascii") + b"\x00" + payload
