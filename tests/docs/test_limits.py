"""The page about limits says what the code does."""

from pathlib import Path

import msgspec

from attestream.config import LimitsConfig
from schemas import accounts, topology
from schemas.attestation import MAX_PARTS, PART_BYTES
from schemas.roles import TENANTS, Role, grant
from services.registrar import challenges, gate, machines
from services.verifier import assembly, attester, desk

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
DEFAULTS = LimitsConfig()
SETTINGS = {"ARCHIVE": "archive_index_mib", "OBJ_evidence": "archive_mib"}


def row(start):
    return next(line for line in PAGE.splitlines() if line.startswith(start))


def test_every_setting_is_there():
    for field in msgspec.structs.fields(LimitsConfig):
        assert f"`{field.name}`" in PAGE, field.name


def test_every_stream_has_its_size_and_bounds():
    for stream in topology.STREAMS:
        line = row(f"| {stream.name} ")
        if stream.max_bytes:
            setting = SETTINGS.get(stream.name, f"{stream.name.lower()}_mib")
            assert f"`{setting}` | {stream.max_bytes >> 20} MiB |" in line
        if stream.max_per_subject:
            assert f"{stream.max_per_subject} " in line
    assert f"{topology.EVIDENCE_MESSAGE_BYTES >> 10} KiB a message" in row("| EVIDENCE ")
    share = topology.EVIDENCE_PER_AGENT * topology.EVIDENCE_MESSAGE_BYTES
    assert f"its share is {share >> 20} MiB" in PAGE
    assert f"{sum(DEFAULTS.sizes().values()) / (1 << 30):.1f} GiB together" in PAGE


def test_every_bound_of_connections():
    limits = {role: grant(role) for role in Role}
    agent = limits[Role.AGENT]
    assert f"{agent.connections} connections, {agent.subscriptions} subscriptions in each" in row("| one agent's identity")
    enrolment = limits[Role.ENROLMENT]
    line = row("| the enrolment credential")
    assert f"{enrolment.connections} connections, {enrolment.subscriptions} subscriptions in each" in line
    for role in (Role.GATEWAY, *TENANTS):
        assert f"| {limits[role].connections} connections" in row("| the identity of a person or of a gateway")
        assert f"| {accounts.connections(role)} connections each" in row("| gateways")
    assert f"| {accounts.connections(Role.AGENT)} connections" in row("| all agents together")
    assert f"| {accounts.connections(Role.ENROLMENT)} connections" in row("| all machines that enrol")
    assert f"| {accounts.SERVER_CONNECTIONS} connections" in row("| a server of the bus")


def test_every_rate_has_its_default():
    assert f"| {DEFAULTS.enrolments_per_s:.0f} a second" in row("| `enrolments_per_s`")
    assert f"{gate.BURST_S} seconds of it at once" in row("| `enrolments_per_s`")
    assert gate.SHARES == 20
    assert "sure of a twentieth" in PAGE
    minute = row("| `enrolments_per_agent_min`")
    assert f"| {DEFAULTS.enrolments_per_agent_min:.0f} a minute" in minute
    assert f"{gate.BURST_PER_SOURCE} at once" in minute
    assert f"| {DEFAULTS.enrolments_waiting} requests" in row("| `enrolments_waiting`")
    assert f"enrolled under {machines.MAX_IDS} ids" in PAGE
    assert f"{challenges.MAX_PER_AGENT} challenges of one id, {challenges.MAX_PENDING:,} in all" in PAGE
    evidence = row("| `evidence_per_agent_s`")
    assert f"| {DEFAULTS.evidence_per_agent_s:.0f} messages a second of one agent, {attester.ALLOWANCE} at once" in evidence
    assert f"| {DEFAULTS.warnings_per_agent_h} warnings" in row("| `warnings_per_agent_h`")


def test_bounds_of_the_verifier():
    assert f"{MAX_PARTS} parts of {PART_BYTES >> 10} KiB, {assembly.MAX_DELIVERIES} messages held for one evidence" in PAGE
    assert f"{assembly.MAX_HELD_BYTES >> 20} MiB and {assembly.MAX_HELD} messages for a partition" in PAGE
    assert f"given up after {assembly.ORPHANS_MS // 1000} s" in PAGE
    assert desk.REFUSALS_EVERY_MS == 60_000
    assert f"asked once in {desk.ASK_EVERY_MS // 1000} s" in PAGE
    assert desk.PAUSE_FACTOR == 9
    assert desk.LARGE_AT_A_TIME == 2


def test_marks_of_alarms():
    for name in ("alarm_ratio", "critical_ratio", "watch_s"):
        assert f"`{name}`" in PAGE
        assert f"{getattr(DEFAULTS, name):g}" in PAGE
