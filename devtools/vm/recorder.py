"""Test vectors from the evidence that the verifier has kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from attestream.archive.reading import appraisal, entries
from attestream.archive.replaying import evidence_of
from attestream.bus.connection import Bus
from attestream.errors import TooLargeError
from schemas.attestation import Evidence

MAX_VECTOR: Final = 200_000
"""Bytes that a file of a vector has at most."""


def write_vector(evidence: Evidence, ak_public: bytes, description: str, directory: Path) -> list[Path]:
    """Write ``evidence`` as a test vector: the quote with what checks it, and the two logs as the kernel shows them.

    Nothing in it is a secret: the keys are public, and the machine that they belonged to is gone.

    :raises TooLargeError: when a log is larger than a vector may be.
    """
    ima = evidence.ima.data if evidence.ima is not None else b""
    for name, log in (("IMA log", ima), ("boot log", evidence.boot_log)):
        if len(log) > MAX_VECTOR:
            raise TooLargeError(f"the {name} has {len(log)} bytes; a vector has at most {MAX_VECTOR}")
    quoted = {
        "description": description,
        "agent_id": evidence.agent_id,
        "nonce": evidence.nonce.hex(),
        "transport_key": evidence.transport_key.hex(),
        "ak_public": ak_public.hex(),
        "quote": evidence.quote.hex(),
        "signature": evidence.signature.hex(),
        "pcr_values": {
            bank: {str(pcr): value.hex() for pcr, value in values.items()} for bank, values in evidence.pcr_values.items()
        },
    }
    contents = {
        "evidence.json": json.dumps(quoted, indent=2).encode() + b"\n",
        "ima_log.bin": ima,
        "boot_log.bin": evidence.boot_log,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in contents]


async def first_evidence(bus: Bus, agent_id: str) -> Evidence | None:
    """Return the oldest kept evidence of an agent with its boot log and its whole IMA log, if there is one by now.

    :raises AttestreamError: it can not be read.
    """
    async for kept in entries(bus, agent_id):
        evidence = evidence_of(await appraisal(bus, kept))
        if evidence.boot_log and evidence.ima is not None and evidence.ima.ima_first == 0 and evidence.ima.data:
            return evidence
    return None
