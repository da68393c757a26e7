"""What a worker keeps of one agent. Thousands are held, so the fields are few and most values are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestream.appraisal.policy import CompiledPolicy
from attestream.appraisal.state import AttesterState, fresh
from attestream.tpm.public import Public
from schemas.attestation import MAX_PARTS
from schemas.commands import AgentStatus
from schemas.events import Finding, Standing
from services.verifier.overload import END_RATIO
from services.verifier.wheel import IDLE

if TYPE_CHECKING:
    from services.verifier.partition import Partition


ALLOWANCE = 2 * (MAX_PARTS + 1)
"""Messages that an agent may send at once after a quiet time: its largest evidence, twice."""


class Attester:
    """One agent under attestation. Owned by one partition, so by one task at a time."""

    __slots__ = (
        "accepted",
        "again",
        "agent_id",
        "ak",
        "allowance",
        "allowance_at",
        "asked_at",
        "attestations",
        "boot_asked",
        "busy",
        "commanded_at",
        "due_at",
        "enrolment",
        "event_number",
        "findings",
        "in_flight",
        "incarnation",
        "interval_ms",
        "issued_at",
        "last_at",
        "last_command",
        "late_ms",
        "lease_ms",
        "missed",
        "nonce",
        "partition",
        "policy",
        "policy_name",
        "queued",
        "refused_at",
        "renewed_at",
        "reply",
        "result_expires_at",
        "retries",
        "seq",
        "slot",
        "standing",
        "state",
        "token",
        "transport",
        "unsaved_since",
        "warned",
        "warned_since",
    )

    def __init__(self, agent_id: str, partition: Partition, policy: CompiledPolicy, policy_name: str) -> None:
        self.agent_id = agent_id
        self.token = agent_id
        self.partition = partition
        self.policy = policy
        self.policy_name = policy_name
        self.ak: Public
        self.transport = b""
        self.enrolment = 0
        self.interval_ms = 30_000
        self.lease_ms = 90_000
        self.standing = Standing.PENDING
        self.state: AttesterState = fresh()
        self.findings: list[Finding] = []
        self.incarnation = ""
        self.last_command = ""
        self.commanded_at = 0
        """When the last command about it was signed (Unix ms): older ones are replays."""
        self.event_number = 0
        self.seq = 0
        """Of the last challenge."""
        self.boot_asked = 0
        """Of the last challenge that asked for the boot log."""
        self.accepted = 0
        """Of the last evidence that was taken: older ones are replays."""
        self.issued_at = 0
        self.nonce = b""
        """Of the challenge with ``seq`` and ``issued_at``; empty when it was not issued here."""
        self.reply = ""
        """Token of the subject at which its answers are awaited. Whoever knows where one agent answers must not know where
        another does. It stays while challenges are answered: the server remembers hundreds of subjects for each connection
        that publishes to them, and thousands that it may answer to."""
        self.in_flight = False
        self.busy = False
        """Something about this agent is being written; its next challenge waits."""
        self.again = False
        """Challenge anew as soon as possible: the agent has announced news meanwhile."""
        self.due_at = 0
        """When its challenge was due or, while one is out, its answer is (milliseconds of the scheduler's clock)."""
        self.late_ms = 0
        """How long it had to wait then."""
        self.queued = False
        """In the line of those that are to be challenged."""
        self.missed = 0
        self.retries = 0
        """Challenges in a row that gave authentic but incomplete evidence."""
        self.attestations = 0
        self.last_at = 0
        self.renewed_at = 0
        self.result_expires_at = 0
        self.refused_at = 0
        self.allowance = float(ALLOWANCE)
        """Messages that are taken from it now (:meth:`allow`)."""
        self.allowance_at = 0
        self.asked_at = 0
        """When the registrar last knew another enrolment than the one that its evidence named."""
        self.warned = 0
        """Warnings on the record since ``warned_since``."""
        self.warned_since = 0
        self.unsaved_since = 0
        """When what the row lacks began to gather, while the journal has it."""
        self.slot = IDLE

    def promise_ms(self, stretch: float) -> int:
        """Return how long a result holds: the lease, as much longer as the interval was, at most ``stretch`` times.

        See ``docs/adr/0013-overload-stretches-leases.md``.
        """
        if self.late_ms < END_RATIO * self.interval_ms:
            return self.lease_ms
        return int(self.lease_ms * min(1 + self.late_ms / self.interval_ms, stretch))

    def allow(self, now: int, per_s: float) -> bool:
        """Return whether one more message is taken from it at ``now`` (Unix ms), of ``per_s`` per second on average."""
        grown = max(0, now - self.allowance_at) / 1000 * per_s
        self.allowance = min(float(ALLOWANCE), self.allowance + grown)
        self.allowance_at = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    @property
    def watched(self) -> bool:
        """Whether it is to be challenged."""
        if self.standing is Standing.FAILED:
            return self.policy.recovery == "automatic"
        return self.standing is not Standing.STOPPED

    def status(self, worker: str) -> AgentStatus:
        """Return what is told to whoever asks."""
        return AgentStatus(
            agent_id=self.agent_id,
            standing=self.standing,
            policy=self.policy_name,
            interval_ms=self.interval_ms,
            lease_ms=self.lease_ms,
            enrolment=self.enrolment,
            seq=self.accepted,
            attestations=self.attestations,
            ima_entries=self.state.ima_entries,
            event_number=self.event_number,
            last_at=self.last_at,
            findings=self.findings,
            worker=worker,
        )
