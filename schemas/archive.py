"""Evidence that was kept, and what is needed to appraise it once more.

An :class:`ArchiveEntry` is one line of the index: it names the object that holds an :class:`ArchivedAppraisal`, compressed.
A :class:`LogSegment` holds consecutive entries of the IMA log of one boot. Both are signed by the verifier that wrote them.
"""

from __future__ import annotations

from typing import Final

from schemas.base import Message
from schemas.events import Finding, Standing

INLINE_BYTES: Final = 65_536
"""Most bytes of compressed log entries that a segment carries itself; more are in an object."""


class ArchiveEntry(Message, kw_only=True, frozen=True, tag="archive-entry"):
    """One kept appraisal in the index. Its number is its sequence in the stream ARCHIVE."""

    agent_id: str
    at: int
    """When the bus got the evidence: Unix time in milliseconds."""
    enrolment: int
    seq: int
    verdict: str
    """``pass``, ``fail`` or ``again``."""
    standing: Standing
    """After the appraisal."""
    event_number: int
    """Of the agent's last event after the appraisal."""
    policy: str
    policy_digest: str
    """SHA-256 in hex of the policy's document and of its layers."""
    codes: list[str]
    """Codes of the findings, at most 16 different ones."""
    object: str
    """SHA-256 in hex of the object with the :class:`ArchivedAppraisal`: its name in the bucket ``evidence``."""
    size: int
    """Bytes of the appraisal before compression."""
    stored: int
    """Bytes of the object."""
    worker: str = ""


class ArchivedAppraisal(Message, kw_only=True, frozen=True, tag="archived-appraisal"):
    """Everything that went into one appraisal, and what came out; in an object, compressed by zlib (RFC 1950)."""

    agent_id: str
    enrolment: int
    incarnation: str
    """Distinguishes the lives of an agent that was deleted and added again."""
    received_at: int
    """Reference time of the appraisal: Unix time in milliseconds."""
    appraised_at: int
    """The worker's clock once the verdict was on the record: Unix time in milliseconds."""
    last_seq: int
    """Number of the last challenge whose evidence had been taken before."""
    window_ms: int
    """How long the challenge could be answered, in milliseconds."""
    ak_public: bytes
    """The enrolled attestation key (TPM2B_PUBLIC)."""
    transport: bytes
    """SHA-256 of the enrolled transport key."""
    policy: str
    policy_digest: str
    """SHA-256 in hex of the policy's document and of its layers."""
    state: bytes
    """What was proven before, as the verifier keeps it (``attestream.appraisal.state``)."""
    evidence: bytes
    """The evidence message with its parts put together."""
    verdict: str
    """``pass``, ``fail`` or ``again``."""
    findings: list[Finding]
    state_after: bytes
    """What is proven afterwards, as the verifier keeps it."""
    before: Standing
    """Of the agent, before the appraisal."""
    standing: Standing
    """After the appraisal."""
    event_number: int
    version: str
    """Of the software that has appraised it."""
    boot_policies: list[str] = []
    """Modules with boot policies of the operator's own that the worker had."""
    worker: str = ""


class LogSegment(Message, kw_only=True, frozen=True, tag="archive-log"):
    """Consecutive entries of an IMA log that quotes have proven. One that starts at 0 replaces what came before it."""

    agent_id: str
    at: int
    enrolment: int
    reset_count: int
    """Of the TPM: with ``restart_count`` it names the boot."""
    restart_count: int
    """Of the TPM."""
    first: int
    """Index of the first entry."""
    count: int
    """Number of entries."""
    ascii: bool = False
    """Whether they are in the kernel's ASCII form."""
    size: int = 0
    """Bytes of the entries before compression."""
    data: bytes = b""
    """The entries, compressed by zlib; empty where they are in an object."""
    object: str = ""
    """SHA-256 in hex of the object with the compressed entries, where ``data`` is empty."""
    worker: str = ""
