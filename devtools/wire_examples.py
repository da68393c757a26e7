"""One example of every message, and their bytes as golden files.

``python -m devtools.wire_examples DIRECTORY`` writes the files; do so only for a change of the wire that is meant, and then
raise ``schema`` of a message whose fields have changed their meaning.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from schemas import archive, attestation, commands, enrolment, events, trust
from schemas.base import Message, encode
from schemas.roles import Role

_AGENT: Final = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
_AT: Final = 1_795_300_000_000
_BUS_KEY: Final = "U" + "A" * 55
_FINDING: Final = events.Finding(
    code="runtime.unknown-file",
    layer="runtime",
    severity="failure",
    culprit="/usr/bin/evil",
    message="the policy does not know it",
    remedy="look at the machine",
)
_ATTESTATION: Final = commands.Attestation(policy="web@3", interval_ms=10_000, lease_ms=60_000)
_IDENTITY: Final = enrolment.Identity(
    agent_id=_AGENT, ek_public=b"ek", ak_public=b"ak", transport_key=b"k" * 32, enrolment=2, ek_trust="accepted", at=_AT
)
_STATUS: Final = commands.AgentStatus(
    agent_id=_AGENT,
    standing=events.Standing.FAILED,
    policy="web@3",
    interval_ms=10_000,
    lease_ms=60_000,
    enrolment=2,
    seq=7,
    attestations=6,
    ima_entries=1200,
    event_number=3,
    last_at=_AT,
    findings=[_FINDING],
    worker="w1",
)

ATTESTATION: Final[tuple[Message, ...]] = (
    attestation.Challenge(
        agent_id=_AGENT,
        nonce=b"n" * 32,
        seq=7,
        issued_at=_AT,
        deadline=_AT + 5000,
        banks={"sha256": [0, 7, 10]},
        ima_from=1200,
        boot_log=True,
        known_digest=b"d" * 32,
    ),
    attestation.Evidence(
        agent_id=_AGENT,
        enrolment=2,
        nonce=b"n" * 32,
        seq=7,
        issued_at=_AT,
        quote=b"quote",
        signature=b"signature",
        transport_key=b"t" * 32,
        pcr_values={"sha256": {0: b"\x00" * 32, 10: b"\xff" * 32}},
        ima=attestation.ImaDelta(ima_first=1200, count=1, data=b"entry", ascii=True),
        boot_log=b"log",
        parts=2,
    ),
    attestation.EvidencePart(agent_id=_AGENT, seq=7, index=1, boot=True, data=b"part"),
    attestation.Hello(agent_id=_AGENT, enrolment=2, at=_AT),
    attestation.ChangeNotice(agent_id=_AGENT, entries=1201, at=_AT),
)
ENROLMENT: Final[tuple[Message, ...]] = (
    enrolment.EnrolRequest(
        agent_id=_AGENT,
        ek_public=b"ek",
        ek_certificates=[b"cert"],
        ak_public=b"ak",
        transport_key=b"k" * 32,
        nonce=b"n" * 32,
        device=enrolment.DeviceIdentity(
            iak_public=b"iak",
            iak_certificates=[b"cert"],
            attest=b"attest",
            signature=b"signature",
            idevid_public=b"idevid",
            idevid_certificates=[b"cert"],
        ),
        bus_key=_BUS_KEY,
    ),
    enrolment.EnrolChallenge(challenge_id=b"c" * 16, credential=b"credential", secret=b"secret", expires_at=_AT),
    enrolment.ActivateRequest(agent_id=_AGENT, challenge_id=b"c" * 16, proof=b"p" * 32, bus_signature=b"s" * 64),
    enrolment.Enrolled(
        agent_id=_AGENT, ak_name=b"\x00\x0b" + b"n" * 32, enrolment=2, at=_AT, bus_token="h.c.s", bus_refusal="none"
    ),
    enrolment.RenewRequest(agent_id=_AGENT, bus_key=_BUS_KEY, at=_AT, signature=b"s" * 64),
    enrolment.Renewed(agent_id=_AGENT, bus_token="h.c.s"),
    enrolment.AgentQuery(agent_id=_AGENT),
    enrolment.AgentsQuery(after="a", limit=100),
    _IDENTITY,
    enrolment.IdentityPage(identities=[_IDENTITY], more=True),
    enrolment.DeleteIdentity(agent_id=_AGENT),
    enrolment.Done(),
    enrolment.Refused(code="agent-unknown", message="no such agent", remedy="check the id"),
)
COMMANDS: Final[tuple[Message, ...]] = (
    commands.AddAgent(command_id="c1", agent_id=_AGENT, attestation=_ATTESTATION, actor="alice"),
    commands.UpdateAgent(command_id="c2", agent_id=_AGENT, attestation=_ATTESTATION, actor="alice"),
    commands.StopAgent(command_id="c3", agent_id=_AGENT, actor="alice"),
    commands.StartAgent(command_id="c4", agent_id=_AGENT, actor="alice"),
    commands.DeleteAgent(command_id="c5", agent_id=_AGENT, actor="alice"),
    commands.PublishPolicy(command_id="c6", name="web", digest="0" * 64, actor="alice", envelope="1" * 64),
    commands.ApprovePolicy(command_id="c7", name="web", version=3, digest="0" * 64, actor="bob"),
    commands.RejectPolicy(command_id="c8", name="web", version=3, digest="0" * 64, reason="too wide", actor="bob"),
    commands.Outcome(command_id="c1", ok=False, code="policy-unknown", message="no web@3", remedy="push it", detail="d"),
    commands.PolicyRecord(
        name="web",
        version=3,
        digest="0" * 64,
        at=_AT,
        actor="alice",
        entries=100_000,
        command_id="c-1",
        command_at=_AT - 9,
        actor_key="0123456789abcdef",
        state=commands.PolicyState.REJECTED,
        decision=commands.PolicyDecision(
            actor="bob", actor_key="fedcba9876543210", at=_AT + 9, command_id="c8", command_at=_AT + 8, reason="too wide"
        ),
        envelope="1" * 64,
        signed_by="2" * 64,
    ),
    _STATUS,
    commands.AgentStatusPage(agents=[_STATUS], more=True),
    commands.WorkerStatus(
        worker="w1",
        started_at=_AT,
        partitions=[0, 63],
        agents=1000,
        attestations=5,
        in_flight=3,
        loads=[16_000, 17_333],
        rate=33.25,
        lateness_ms=12,
        overloaded=True,
        draining=True,
        version="1.0",
    ),
    commands.PoolPlan(members=["w1", "w2"], owners=["w1", "w2"], loads=[16_000, 17_333], at=_AT, worker="w1"),
    commands.DrainWorker(worker="w1", drain=False),
    commands.RebalanceWorkers(),
    commands.Rebalanced(moves=3),
    commands.LeaseRecord(worker="w1", since=_AT, session="0123456789abcdef0123456789abcdef"),
    commands.SessionRecord(worker="w1", at=_AT),
)
EVENTS: Final[tuple[Message, ...]] = (
    events.Event(
        id="e1",
        kind=events.EventKind.FAILED,
        agent_id=_AGENT,
        at=_AT,
        event_number=3,
        enrolment=2,
        standing=events.Standing.FAILED,
        before=events.Standing.TRUSTED,
        policy="web@3",
        findings=[_FINDING],
        command_id="c1",
        command_at=_AT - 9,
        actor="alice",
        actor_key="0123456789abcdef",
        detail="operator",
        worker="w1",
        fence=9,
        cause_at=_AT - 5,
        recovery="operator",
        interval_ms=30_000,
        lease_ms=90_000,
    ),
    events.Result(
        agent_id=_AGENT,
        standing=events.Standing.TRUSTED,
        at=_AT,
        expires_at=_AT + 60_000,
        seq=7,
        event_number=3,
        enrolment=2,
        policy="web@3",
        findings=[_FINDING],
        worker="w1",
        fence=9,
    ),
    events.Revocation(
        id="e1",
        agent_id=_AGENT,
        at=_AT,
        signed_at=_AT + 1,
        standing=events.Standing.FAILED,
        enrolment=2,
        policy="web@3",
        findings=[_FINDING],
    ),
    events.Signed(payload=b"payload", key_id="0123456789abcdef", algorithm="ed25519", signature=b"s" * 64),
    events.DeadLetter(
        stream="EVIDENCE",
        subject="att.evidence.5.a",
        sequence=9,
        deliveries=10,
        at=_AT,
        code="malformed",
        message="not a message",
        data=b"\xc1",
    ),
)
TRUST: Final[tuple[Message, ...]] = (
    trust.Roster(
        installation="0123456789abcdef",
        version=2,
        issued_at=_AT,
        keys=[
            trust.RosterKey(
                key_id="0123456789abcdef",
                role=Role.OPERATOR,
                name="olga",
                public_key="-----BEGIN PUBLIC KEY-----",
                bus_key="UABC",
                not_before=_AT,
                not_after=_AT + 2,
                revoked_at=_AT + 1,
                changed_by="alice",
            )
        ],
        policy_approvals=2,
        approvals_by="alice",
        vouchers=[events.Signed(payload=b"a", key_id="0123456789abcdef", algorithm="ed25519", signature=b"b")],
    ),
    trust.RootVoucher(installation="0123456789abcdef", successor="-----BEGIN PUBLIC KEY-----", at=_AT, until=_AT + 1),
)
ARCHIVE: Final[tuple[Message, ...]] = (
    archive.ArchiveEntry(
        agent_id=_AGENT,
        at=_AT,
        enrolment=2,
        seq=_AT,
        verdict="fail",
        standing=events.Standing.FAILED,
        event_number=3,
        policy="web@3",
        policy_digest="ab" * 32,
        codes=["runtime.file-digest"],
        object="cd" * 32,
        size=4096,
        stored=1024,
        worker="w1",
    ),
    archive.ArchivedAppraisal(
        agent_id=_AGENT,
        enrolment=2,
        incarnation="c1",
        received_at=_AT,
        appraised_at=_AT + 1,
        last_seq=_AT - 1,
        window_ms=15_000,
        ak_public=b"ak",
        transport=b"t" * 32,
        policy="web@3",
        policy_digest="ab" * 32,
        state=b"before",
        evidence=b"evidence",
        verdict="fail",
        findings=[_FINDING],
        state_after=b"after",
        before=events.Standing.TRUSTED,
        standing=events.Standing.FAILED,
        event_number=3,
        version="1.0",
        boot_policies=["site.boot"],
        worker="w1",
    ),
    archive.LogSegment(
        agent_id=_AGENT,
        at=_AT,
        enrolment=2,
        reset_count=7,
        restart_count=1,
        first=1200,
        count=1,
        ascii=True,
        size=300,
        data=b"compressed",
        object="ef" * 32,
        worker="w1",
    ),
)
EXAMPLES: Final = {
    str(message.__struct_config__.tag): message
    for message in (*ATTESTATION, *ENROLMENT, *COMMANDS, *EVENTS, *TRUST, *ARCHIVE)
}
"""Tag -> an example with every field set."""


def write(directory: Path) -> None:
    """Write the golden file of each example: its bytes in hex, 32 to a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, message in EXAMPLES.items():
        text = encode(message).hex()
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        (directory / f"{name}.hex").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
