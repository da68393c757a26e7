"""Keeps the evidence that the machine has sent, as others may hear it on the bus; from it come test vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from attestream.errors import TooLargeError
from schemas import subjects
from schemas.attestation import Evidence, EvidencePart, Inbound
from schemas.base import Decoder

MAX_VECTOR: Final = 200_000
"""Bytes that a file of a vector has at most."""

_DECODER: Final = Decoder[Inbound](Inbound)


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


class Recorder:
    """Hears the evidence of one agent, and keeps the newest that tells of a boot and its whole IMA log."""

    def __init__(self, agent_id: str) -> None:
        self._agent_id = agent_id
        self._head: Evidence | None = None
        self.newest: Evidence | None = None

    async def listen(self, bus: Bus) -> None:
        """Begin to hear.

        :raises BusError: when the bus does not answer.
        """
        await bus.subscribe(subjects.evidence(self._agent_id), self._hear)

    async def _hear(self, message: Msg) -> None:
        news = _DECODER.decode(message.data)
        if isinstance(news, Evidence):
            self._head = news
        elif isinstance(news, EvidencePart) and self._head is not None and news.seq == self._head.seq:
            self._head = _joined(self._head, news)
        head = self._head
        if head is not None and head.boot_log and head.ima is not None and head.ima.ima_first == 0 and head.ima.data:
            self.newest = head


def _joined(head: Evidence, part: EvidencePart) -> Evidence:
    if part.boot:
        return msgspec.structs.replace(head, boot_log=head.boot_log + part.data)
    assert head.ima is not None
    return msgspec.structs.replace(head, ima=msgspec.structs.replace(head.ima, data=head.ima.data + part.data))
