"""Tenant commands, their outcome, policies, and what verifiers answer to queries."""

from __future__ import annotations

import enum

from schemas.base import Message, Part
from schemas.events import Finding, Standing


class Attestation(Part, kw_only=True, frozen=True):
    """How an agent is to be attested."""

    policy: str
    """``name@version``, or ``name`` for the newest version when the command is executed."""
    interval_ms: int = 30_000
    """Time between heartbeats."""
    lease_ms: int = 0
    """Life of a result; 0: three intervals, at least 30 s."""


class AddAgent(Message, kw_only=True, frozen=True, tag="agent-add"):
    """Puts an enrolled agent under attestation."""

    command_id: str
    agent_id: str
    attestation: Attestation
    actor: str = ""


class UpdateAgent(Message, kw_only=True, frozen=True, tag="agent-update"):
    """Changes how an agent is attested, and starts over: a failed agent gets its next chance."""

    command_id: str
    agent_id: str
    attestation: Attestation
    actor: str = ""


class StopAgent(Message, kw_only=True, frozen=True, tag="agent-stop"):
    """Pauses attestation; the result lapses."""

    command_id: str
    agent_id: str
    actor: str = ""


class StartAgent(Message, kw_only=True, frozen=True, tag="agent-start"):
    """Resumes attestation of a stopped or failed agent, from the beginning of its logs."""

    command_id: str
    agent_id: str
    actor: str = ""


class DeleteAgent(Message, kw_only=True, frozen=True, tag="agent-delete"):
    """Ends attestation and forgets the agent's state."""

    command_id: str
    agent_id: str
    actor: str = ""


class PublishPolicy(Message, kw_only=True, frozen=True, tag="policy-publish"):
    """Makes the document ``digest`` of the bucket ``policies`` the next version of policy ``name``."""

    command_id: str
    name: str
    digest: str
    """SHA-256 of the document in hex."""
    actor: str = ""
    envelope: str = ""
    """SHA-256 in hex of the DSSE envelope that the document was signed in, in the same bucket; empty when in none."""


class ApprovePolicy(Message, kw_only=True, frozen=True, tag="policy-approve"):
    """Makes a proposed version usable. Its author can not give it."""

    command_id: str
    name: str
    version: int
    """The one that is meant."""
    digest: str
    """SHA-256 in hex of the document that was looked at: no other one is approved by it."""
    actor: str = ""


class RejectPolicy(Message, kw_only=True, frozen=True, tag="policy-reject"):
    """Ends a proposed version: it can not be approved any more."""

    command_id: str
    name: str
    version: int
    """The one that is meant."""
    digest: str
    """SHA-256 in hex of its document."""
    reason: str = ""
    """For the record, at most 200 characters of it."""
    actor: str = ""


PolicyCommand = PublishPolicy | ApprovePolicy | RejectPolicy
AgentCommand = AddAgent | UpdateAgent | StopAgent | StartAgent | DeleteAgent
Command = AddAgent | UpdateAgent | StopAgent | StartAgent | DeleteAgent | PublishPolicy | ApprovePolicy | RejectPolicy


def about(command: Command) -> str:
    """Return the id of the agent or the name of the policy that ``command`` is about: its subject is made of it."""
    return command.name if isinstance(command, PolicyCommand) else command.agent_id


class Outcome(Message, kw_only=True, frozen=True, tag="outcome"):
    """How a command ended. Sent to the subject in the header ``Attestream-Reply-To``."""

    command_id: str
    ok: bool
    """Whether the command was carried out; otherwise the next three fields say why not."""
    code: str = ""
    message: str = ""
    remedy: str = ""
    detail: str = ""
    """For a policy its ``name@version``, and after a space ``proposed`` where it can not be used yet."""


class PolicyState(enum.StrEnum):
    """What may be done with a version of a policy."""

    PROPOSED = "proposed"
    """Nothing, until another person has approved it."""
    APPROVED = "approved"
    """Agents may be attested by it."""
    REJECTED = "rejected"
    """Nothing, for ever."""


class PolicyDecision(Part, kw_only=True, frozen=True):
    """Who has approved or rejected a proposed version."""

    actor: str
    """Name in the roster."""
    actor_key: str
    """Id of the key that has signed the command."""
    at: int
    """When that was done: Unix time in milliseconds."""
    command_id: str
    """The command that did it."""
    command_at: int
    """When that was signed: Unix time in milliseconds."""
    reason: str = ""
    """Of a rejection."""


class PolicyRecord(Message, kw_only=True, frozen=True, tag="policy-record"):
    """Value of the key ``policy.<name>.<version>`` in the bucket ``attestream``."""

    name: str
    version: int
    """Counts up from 1 for each name."""
    digest: str
    at: int
    actor: str = ""
    entries: int = 0
    """Number of reference values."""
    command_id: str = ""
    """The command that made it: offered again, it makes no other."""
    command_at: int = 0
    """Unix time in milliseconds at which the author signed that command; 0: nothing is signed here."""
    actor_key: str = ""
    """Id of the author's key."""
    state: PolicyState = PolicyState.APPROVED
    """Whether it can be used."""
    decision: PolicyDecision | None = None
    """None where the installation asks for no second person, and until there is one."""
    envelope: str = ""
    """SHA-256 in hex of the DSSE envelope that it was pushed in; empty when in none."""
    signed_by: str = ""
    """Id of the key whose signature the verifier has found on it: SHA-256 of its PEM form in hex; empty where it was asked
    for none."""


class AgentStatus(Message, kw_only=True, frozen=True, tag="agent-status"):
    """What the owner of an agent knows of it."""

    agent_id: str
    standing: Standing
    policy: str
    interval_ms: int
    lease_ms: int
    enrolment: int
    seq: int
    attestations: int
    """Good appraisals since the worker that owns it took over."""
    ima_entries: int
    """Entries of the IMA log that a quote has proven."""
    event_number: int
    last_at: int
    """Unix time in milliseconds of the last good appraisal; 0: none."""
    findings: list[Finding] = []
    worker: str = ""


class AgentStatusPage(Message, kw_only=True, frozen=True, tag="agent-status-page"):
    """A page of agents."""

    agents: list[AgentStatus]
    more: bool


class WorkerStatus(Message, kw_only=True, frozen=True, tag="worker-status"):
    """Value of a worker's key in the bucket ``workers``: its heartbeat."""

    worker: str
    started_at: int
    """Unix time in milliseconds."""
    partitions: list[int]
    """Those that it owns, ascending."""
    agents: int
    """Number of agents in its partitions."""
    attestations: int
    """Appraisals since it started."""
    in_flight: int
    """Challenges that wait for an answer."""
    loads: list[int] = []
    """Of each of ``partitions``: attestations that its agents are due, in a thousand seconds."""
    rate: float = 0.0
    """Attestations a second lately."""
    lateness_ms: int = 0
    """How late its challenges have lately been at most, in milliseconds."""
    overloaded: bool = False
    """Whether intervals are longer than asked for because it can not do more."""
    draining: bool = False
    """Whether it gives its partitions away and takes none."""
    version: str = ""
    """Of the software."""


class PoolPlan(Message, kw_only=True, frozen=True, tag="pool-plan"):
    """Which worker is to own which partition. A wish: the leases say who does."""

    members: list[str]
    """Workers that it was made for, ascending."""
    owners: list[str]
    """Of each partition its worker."""
    loads: list[int]
    """Of each partition its load (as in a worker's status) when it was known last."""
    at: int
    """Unix time in milliseconds."""
    worker: str
    """Who made it."""


class DrainWorker(Message, kw_only=True, frozen=True, tag="worker-drain"):
    """Tells a worker to give its partitions away and to take none, or to take part again."""

    worker: str
    drain: bool = True
    """Whether to give away; otherwise to take part again."""


class RebalanceWorkers(Message, kw_only=True, frozen=True, tag="workers-rebalance"):
    """Asks for a new plan by the loads of now."""


class Rebalanced(Message, kw_only=True, frozen=True, tag="workers-rebalanced"):
    """What became of that."""

    moves: int
    """Partitions that change their owner."""


class LeaseRecord(Message, kw_only=True, frozen=True, tag="lease"):
    """Value of a partition's key in the bucket ``leases``: its owner, for as long as that one's session lives. Also the
    content of fence markers."""

    worker: str
    since: int
    """When it was written: Unix time in milliseconds."""
    session: str = ""
    """Of the owner; empty in fence markers."""


class SessionRecord(Message, kw_only=True, frozen=True, tag="session"):
    """Value of a session's key in the bucket ``leases``: one start of a worker, which is alive while the key is there."""

    worker: str
    at: int
    """When it was renewed last: Unix time in milliseconds."""
