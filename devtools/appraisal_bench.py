"""A verifier's side of one agent with a software TPM, for tests of whole appraisals."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from attestream.appraisal import freshness
from attestream.appraisal.appraise import Appraisal, appraise
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.appraisal.state import fresh
from attestream.tpm.public import parse_public
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge, Evidence

KEYS = KeyPool(size=2)
SECRET = bytes(32)
NOW = 1_790_000_000_000
EVIL = hashlib.sha256(b"evil").digest()
FILES = ["boot_aggregate", *(f"/usr/bin/tool-{number}" for number in range(30))]


def content(path: str) -> bytes:
    """Return the digest that the file ``path`` has here."""
    return hashlib.sha256(path.encode()).digest()


def make_policy(
    *, bank: str = "sha256", pcrs: tuple[int, ...] = (0, 7), runtime: bool = True, **more: object
) -> CompiledPolicy:
    """Return a policy that allows :data:`FILES`, and zeros in ``pcrs``."""
    size = hashlib.new(bank).digest_size
    document: dict[str, Any] = {"format": "attestream-policy/1", "bank": bank, **more}
    if pcrs:
        document["pcrs"] = {str(pcr): [bytes(size).hex()] for pcr in pcrs}
    if runtime:
        digests = {path: [f"sha256:{content(path).hex()}"] for path in FILES}
        document["runtime"] = {"digests": digests, "excludes": ["/tmp/.*"]}
    return compile_policy(json.dumps(document).encode())


POLICY = make_policy()


class Bench:
    """It challenges the agent, appraises what that answers, and keeps the state; ``tpm`` are arguments of the TPM."""

    def __init__(self, policy: CompiledPolicy = POLICY, **tpm: Any) -> None:
        self.tpm = SoftTpm(**{"ak": "p256", "ek": "p256", "keys": KEYS, "banks": ("sha1", "sha256"), **tpm})
        self.agent = SoftAgent("agent-1", self.tpm)
        self.ak = parse_public(self.tpm.ak_public)
        self.policy = policy
        self.state = fresh()
        self.seq = 0

    def run(self, *numbers: int) -> None:
        """Have the agent measure those of :data:`FILES`."""
        for number in numbers:
            self.agent.run(FILES[number], content(FILES[number]))

    def challenge(self) -> Challenge:
        """Return the next challenge."""
        self.seq += 1
        return Challenge(
            agent_id="agent-1",
            nonce=freshness.nonce(SECRET, "agent-1", self.seq, NOW),
            seq=self.seq,
            issued_at=NOW,
            deadline=NOW + 1000,
            banks=self.policy.selection,
            ima_from=self.state.ima_entries if self.policy.runtime else None,
            known_digest=self.state.known_digest,
        )

    def answer(self, **changes: Any) -> Evidence:
        """Return what the agent answers to the next challenge, with these fields changed."""
        return msgspec.structs.replace(self.agent.answer(self.challenge()), **changes)

    def judge(self, evidence: Evidence, **changes: Any) -> Appraisal:
        """Appraise ``evidence`` and keep nothing of it; ``changes`` are arguments that differ."""
        arguments = {"agent_id": "agent-1", "ak": self.ak, "policy": self.policy, "state": self.state, "now": NOW}
        return appraise(evidence, **{**arguments, **changes})

    def round(self, **changes: Any) -> Appraisal:
        """Challenge, appraise the answer, and keep the state."""
        appraisal = self.judge(self.answer(**changes))
        self.state = appraisal.state
        return appraisal


def codes(appraisal: Appraisal) -> list[str]:
    """Return the codes of what was found."""
    return [finding.code for finding in appraisal.findings]


def culprits(appraisal: Appraisal) -> list[str]:
    """Return the culprits of what was found."""
    return [finding.culprit for finding in appraisal.findings]
