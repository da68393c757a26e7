"""Who sends what to whom: each subject with its messages, each header and each key. Documents are generated from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from schemas import archive, attestation, commands, enrolment, events, subjects, topology, trust
from schemas.base import Message

AGENT: Final = "{agent}"
"""Stands for an agent's subject token in an address."""
SUBJECT: Final = "{subject}"
"""Stands for the token of an agent, or of a policy's name."""

_PROBE: Final = "probe-0"
_ANSWERABLE: Final = enrolment.Refused


class Channel(NamedTuple):
    """A subject and what travels on it."""

    name: str
    address: str
    """With ``{agent}``, ``{kind}``... where tokens vary."""
    messages: tuple[type[Message], ...]
    sender: str
    receiver: str
    doc: str
    reply: tuple[type[Message], ...] = ()
    """What the receiver answers with; empty: nothing."""
    stream: str = ""
    """The stream that keeps it; empty: core NATS, delivered to whoever listens or not at all."""


class Header(NamedTuple):
    """A message header."""

    name: str
    doc: str


class Key(NamedTuple):
    """A family of keys in a bucket."""

    bucket: str
    key: str
    value: str
    """A message's name, or what the bytes are."""
    doc: str


def _about(subject: Callable[[str], str], parameter: str = AGENT) -> str:
    return subject(_PROBE).replace(_PROBE, parameter)


CHANNELS: Final = (
    Channel(
        "enrol",
        subjects.REGISTRAR_ENROL,
        (enrolment.EnrolRequest,),
        "agent",
        "registrar",
        "Asks for an enrolment challenge.",
        (enrolment.EnrolChallenge, _ANSWERABLE),
    ),
    Channel(
        "activate",
        subjects.REGISTRAR_ACTIVATE,
        (enrolment.ActivateRequest,),
        "agent",
        "registrar",
        "Proves the activated secret.",
        (enrolment.Enrolled, _ANSWERABLE),
    ),
    Channel(
        "renew",
        _about(subjects.renewal),
        (enrolment.RenewRequest,),
        "agent",
        "registrar",
        "Asks for the agent's next identity on the bus.",
        (enrolment.Renewed, _ANSWERABLE),
    ),
    Channel(
        "registrarAgent",
        subjects.QUERY_REGISTRAR_AGENT,
        (enrolment.AgentQuery,),
        "verifier, tenant",
        "registrar",
        "Asks who an agent is.",
        (enrolment.Identity, _ANSWERABLE),
    ),
    Channel(
        "registrarAgents",
        subjects.QUERY_REGISTRAR_AGENTS,
        (enrolment.AgentsQuery,),
        "tenant",
        "registrar",
        "Asks for a page of enrolled agents.",
        (enrolment.IdentityPage, _ANSWERABLE),
    ),
    Channel(
        "registrarDelete",
        subjects.REGISTRAR_DELETE,
        (enrolment.DeleteIdentity,),
        "tenant",
        "registrar",
        "Removes an enrolment.",
        (enrolment.Done, _ANSWERABLE),
    ),
    Channel(
        "registrarRoster",
        subjects.REGISTRAR_ROSTER,
        (events.Signed,),
        "tenant",
        "registrar",
        "Hands in a new roster: a signed envelope around a Roster.",
        (enrolment.Done, _ANSWERABLE),
    ),
    Channel(
        "verifierAgent",
        subjects.QUERY_VERIFIER_AGENT,
        (enrolment.AgentQuery,),
        "tenant",
        "verifier",
        "Asks what is known of one agent. Any worker answers.",
        (commands.AgentStatus, _ANSWERABLE),
    ),
    Channel(
        "verifierAgents",
        subjects.QUERY_VERIFIER_AGENTS,
        (enrolment.AgentsQuery,),
        "tenant",
        "verifier",
        "Asks for a page of agents under attestation. Any worker answers.",
        (commands.AgentStatusPage, _ANSWERABLE),
    ),
    Channel(
        "verifierWorker",
        _about(subjects.worker_orders, "{worker}"),
        (commands.DrainWorker,),
        "tenant",
        "verifier",
        "Tells one worker to give its partitions away, or to take part again. Signed.",
        (enrolment.Done, _ANSWERABLE),
    ),
    Channel(
        "verifierRebalance",
        subjects.VERIFIER_REBALANCE,
        (commands.RebalanceWorkers,),
        "tenant",
        "verifier",
        "Asks for the partitions to be shared out by the loads of now. Signed. Any worker answers.",
        (commands.Rebalanced, _ANSWERABLE),
    ),
    Channel(
        "challenge",
        subjects.challenge_of(AGENT),
        (attestation.Challenge,),
        "verifier",
        "agent",
        "Asks for evidence. Bare evidence is the reply; evidence with news goes to the channel `evidence` instead.",
        (attestation.Evidence,),
    ),
    Channel(
        "evidence",
        _about(subjects.evidence),
        (attestation.Evidence, attestation.EvidencePart, attestation.Hello, attestation.ChangeNotice),
        "agent",
        "verifier",
        "Evidence with news and notices. The server stores it under the subject of the agent's partition.",
        stream=topology.EVIDENCE.name,
    ),
    Channel(
        "command",
        _about(subjects.command, SUBJECT),
        (
            commands.AddAgent,
            commands.UpdateAgent,
            commands.StopAgent,
            commands.StartAgent,
            commands.DeleteAgent,
            commands.PublishPolicy,
            commands.ApprovePolicy,
            commands.RejectPolicy,
        ),
        "tenant",
        "verifier",
        "Tenant commands about an agent or a policy. The outcome goes to the subject in `Attestream-Reply-To`.",
        (commands.Outcome,),
        topology.COMMANDS.name,
    ),
    Channel(
        "event",
        subjects.event("{kind}", _PROBE).replace(_PROBE, SUBJECT),
        (events.Event,),
        "verifier, registrar",
        "notifier, tenant",
        "Changes of standing and of identity, and new policies; `{kind}` is an event kind.",
        stream=topology.EVENTS.name,
    ),
    Channel(
        "eventFence",
        subjects.EVENT_FENCES.replace("*", "{partition}"),
        (commands.LeaseRecord,),
        "verifier",
        "nobody",
        "Marker whose sequence is the fencing token of a partition for events.",
        stream=topology.EVENTS.name,
    ),
    Channel(
        "result",
        _about(subjects.result),
        (events.Result,),
        "verifier",
        "tenant",
        "The attestation result of an agent. Its message expires with the lease; the server then stores a delete marker.",
        stream=topology.RESULTS.name,
    ),
    Channel(
        "resultFence",
        subjects.RESULT_FENCES.replace("*", "{partition}"),
        (commands.LeaseRecord,),
        "verifier",
        "nobody",
        "Marker whose sequence is the fencing token of a partition for results.",
        stream=topology.RESULTS.name,
    ),
    Channel(
        "revocation",
        _about(subjects.revocation),
        (events.Signed,),
        "notifier",
        "tenant, webhooks",
        "A signed envelope around a Revocation.",
        stream=topology.REVOCATIONS.name,
    ),
    Channel(
        "revoked",
        _about(subjects.revoked),
        (events.Signed,),
        "server",
        "agent",
        "The same envelope, republished by the server to whoever is connected, with its sequence in `Nats-Sequence`.",
    ),
    Channel(
        "dead",
        subjects.DEAD.replace("*", "{stream}"),
        (events.DeadLetter,),
        "any service",
        "operator",
        "What could not be processed from a stream.",
        stream=topology.DEAD.name,
    ),
    Channel(
        "archivedEvidence",
        _about(subjects.archived_evidence),
        (archive.ArchiveEntry,),
        "verifier",
        "tenant",
        "A line of the index of kept evidence. It expires when the policy in use says so.",
        stream=topology.ARCHIVE.name,
    ),
    Channel(
        "archivedLog",
        _about(subjects.archived_log),
        (archive.LogSegment,),
        "verifier",
        "tenant",
        "Entries of the IMA log of one boot. They expire when the policy in use says so.",
        stream=topology.ARCHIVE.name,
    ),
)
"""Every subject of the contract."""

ENVELOPED: Final = (events.Revocation, trust.Roster, trust.RootVoucher, archive.ArchivedAppraisal)
"""Messages that travel inside of something else: of a ``Signed`` envelope, or of an object."""

HEADERS: Final = (
    Header(subjects.HEADER_CONTENT_TYPE, f"`{subjects.CONTENT_TYPE}`."),
    Header(subjects.HEADER_MESSAGE_ID, "Id of a stored message; the server drops a repeat within the duplicate window."),
    Header(
        subjects.HEADER_REPLY_TO,
        "On a command: the inbox to which its outcome is sent. On a question: the inbox that the signed answer is made for, "
        "with random characters and the digest of the question behind it.",
    ),
    Header(
        subjects.HEADER_SIGNATURE,
        "`<key id>.<algorithm>.<signed at>.<signature>`: who says this, over the subject as published (of an answer: the "
        "place that the question names), the time in Unix ms and the payload.",
    ),
    Header(subjects.HEADER_TTL, "On a result or a key with a lifetime: seconds until the server lets it expire."),
    Header(subjects.HEADER_EXPECTED_SUBJECT, "On a verifier's event or result: the fence subject of the partition."),
    Header(
        subjects.HEADER_EXPECTED_SEQUENCE,
        "On a verifier's event or result: the fencing token; the server refuses the message when the fence has moved on.",
    ),
    Header(
        subjects.HEADER_REQUEST_INFO,
        "Set by the server on requests for enrolment and their proofs: the asker's account and address, as JSON; floods are "
        "told by it.",
    ),
    Header(subjects.HEADER_MARKER, "Set by the server on a delete marker: why the message is gone, `MaxAge` for a lapse."),
    Header(subjects.HEADER_SEQUENCE, "Set by the server on a republished revocation: its sequence in the stream."),
    Header("traceparent", "W3C trace context of the sender, where it has one; `tracestate` likewise."),
)
"""Every header that has a meaning."""

KEYS: Final = (
    Key(topology.CLUSTER.name, topology.KEY_PARTITIONS, "decimal text", "Number of partitions of the cluster."),
    Key(
        topology.CLUSTER.name,
        topology.policy_keys().replace("*", "<name>", 1).replace("*", "<version>"),
        commands.PolicyRecord.__name__,
        "A version of a policy. A `.` in the name is written as `=`.",
    ),
    Key(
        topology.CLUSTER.name,
        topology.KEY_ROSTER,
        events.Signed.__name__,
        "The roster: a signed envelope by a root key around a Roster. The signature in the header is that of a registrar "
        "who vouches that it is the newest, again every minute.",
    ),
    Key(topology.CLUSTER.name, f"{topology.KEY_NOTIFIER}.<key id>", "PEM", "A public key of the notifier."),
    Key(topology.WORKERS.name, "<worker>", commands.WorkerStatus.__name__, "Heartbeat of a live worker."),
    Key(
        topology.LEASES.name,
        "<partition>",
        commands.LeaseRecord.__name__,
        "The owner of a partition, if its session lives.",
    ),
    Key(
        topology.LEASES.name,
        f"{topology.KEY_SESSION}<id>",
        commands.SessionRecord.__name__,
        "One start of a worker, which is alive while the key is there.",
    ),
    Key(topology.LEASES.name, topology.KEY_PLAN, commands.PoolPlan.__name__, "Which worker is to own which partition."),
)
"""Every family of keys."""
