"""Challenges and evidence.

The qualifying data of a quote is ``SHA-256(b"attestream/quote/1" || u32be(len(nonce)) || nonce || u32be(len(agent id)) ||
agent id || SHA-256(transport key))``: it binds freshness, the agent's id and its transport key (:func:`qualifying_data`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from schemas.base import Message, Part

PART_BYTES: Final = 262_144
"""Log bytes in one message; evidence with more travels in parts."""

MAX_PARTS: Final = 256
"""Most parts of one evidence: 64 MiB of logs. A longer IMA log takes several (:attr:`ImaDelta.more`)."""


class Challenge(Message, kw_only=True, frozen=True, tag="challenge"):
    """Asks an agent for evidence. The nonce is ``HMAC-SHA256(cluster secret, id | seq | issued_at)``."""

    agent_id: str
    nonce: bytes
    seq: int
    """Raised with each challenge of an agent."""
    issued_at: int
    """Unix time in milliseconds."""
    deadline: int
    """Unix time in milliseconds after which an answer is not awaited."""
    banks: dict[str, list[int]]
    """PCR bank (``sha256``...) -> PCR indexes, ascending, to be quoted."""
    ima_from: int | None = None
    """Index of the first IMA entry that the verifier lacks; ``None``: no IMA log is wanted."""
    boot_log: bool = False
    """Whether the UEFI event log is wanted."""
    known_digest: bytes = b""
    """PCR digest that the verifier trusts: when the quote's is the same, values and log are left out."""


class ImaDelta(Part, kw_only=True, frozen=True):
    """IMA entries in the kernel's binary form (``binary_runtime_measurements``), or its ASCII form if ``ascii`` is set."""

    ima_first: int
    """Index of the first entry here: the one that was asked for, or 0 when the log restarted or is shorter."""
    count: int
    """Number of entries."""
    data: bytes
    """The entries, as the kernel wrote them."""
    ascii: bool = False
    """Whether ``data`` is in the ASCII form."""
    more: bool = False
    """Whether the log goes on behind these and the rest is for the next challenges: the quote is over all of it."""


class Evidence(Message, kw_only=True, frozen=True, tag="evidence"):
    """A quote and the claims that it signs.

    Bare (no PCR values, no logs) it answers the challenge directly; with news it goes over the EVIDENCE stream.
    """

    agent_id: str
    enrolment: int
    nonce: bytes
    seq: int
    issued_at: int
    quote: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""
    transport_key: bytes
    """SHA-256 of the agent's transport key."""
    pcr_values: dict[str, dict[int, bytes]] = {}
    """PCR bank -> index -> value, of exactly what was quoted; empty when the digest is the known one."""
    ima: ImaDelta | None = None
    """Entries from where the challenge asked. In evidence of several parts ``data`` is empty and follows in them."""
    boot_log: bytes = b""
    """The firmware's event log, as the kernel shows it (``binary_bios_measurements``)."""
    parts: int = 0
    """Number of :class:`EvidencePart` that follow on the stream."""


class EvidencePart(Message, kw_only=True, frozen=True, tag="evidence-part"):
    """Part ``index`` (from 0) of the logs of evidence ``seq``: first the IMA log, then the boot log, cut at any byte."""

    agent_id: str
    seq: int
    index: int
    """Place among the parts, from 0."""
    boot: bool
    """Whether ``data`` belongs to the boot log."""
    data: bytes
    """At most :data:`PART_BYTES` bytes of a log."""


class Hello(Message, kw_only=True, frozen=True, tag="hello"):
    """An agent has started or has enrolled anew; its owner challenges it at once."""

    agent_id: str
    enrolment: int
    at: int


class ChangeNotice(Message, kw_only=True, frozen=True, tag="change"):
    """The agent's IMA log has grown; its owner challenges it at once."""

    agent_id: str
    entries: int
    """Number of entries in the log."""
    at: int


Inbound = Evidence | EvidencePart | Hello | ChangeNotice
"""What the EVIDENCE stream carries."""


def qualifying_data(nonce: bytes, agent_id: str, transport_key_digest: bytes) -> bytes:
    """Return the 32 bytes that a quote must carry as ``extraData`` (TPM 2.0 Part 2, TPMS_ATTEST)."""
    name = agent_id.encode("ascii")
    return hashlib.sha256(
        b"attestream/quote/1"
        + len(nonce).to_bytes(4, "big")
        + nonce
        + len(name).to_bytes(4, "big")
        + name
        + transport_key_digest
    ).digest()
