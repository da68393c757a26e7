"""Puts evidence of several parts together. Parts stay unacknowledged until the whole has been appraised."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from attestream.bus.consume import Delivery
from schemas.attestation import MAX_PARTS, PART_BYTES, Evidence, EvidencePart

MAX_HELD_BYTES = 128 << 20
"""Log bytes that one worker's partition holds for incomplete evidence."""

LIFETIME_MS = 60_000
"""How long incomplete evidence is kept; the agent is asked again long before."""


@dataclass
class _Pending:
    born: int
    head: Evidence | None = None
    parts: dict[int, EvidencePart] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    size: int = 0

    @property
    def complete(self) -> bool:
        return self.head is not None and len(self.parts) >= self.head.parts


@dataclass
class Whole:
    """Complete evidence and what to acknowledge once it has taken effect."""

    evidence: Evidence
    deliveries: list[Delivery]


class Assembly:
    """Incomplete evidence of one partition, one per agent: the newest. What is given up is returned, to be acknowledged; its
    agent will be challenged again."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, int], _Pending] = {}

    def head(self, evidence: Evidence, delivery: Delivery, now: int) -> Whole | None:
        """Take the quote of evidence that has parts."""
        pending = self._of(evidence.agent_id, evidence.seq, now)
        pending.head = evidence
        pending.deliveries.append(delivery)
        return self._finish(evidence.agent_id, evidence.seq)

    def part(self, part: EvidencePart, delivery: Delivery, now: int) -> Whole | None:
        """Take a part. One that is out of bounds is dropped with everything it belongs to."""
        pending = self._of(part.agent_id, part.seq, now)
        pending.deliveries.append(delivery)
        if 0 <= part.index < MAX_PARTS and len(part.data) <= PART_BYTES and part.index not in pending.parts:
            pending.parts[part.index] = part
            pending.size += len(part.data)
        return self._finish(part.agent_id, part.seq)

    def expire(self, now: int) -> list[Delivery]:
        """Give up what is too old, and the oldest while too much is held."""
        given_up: list[Delivery] = []
        held = sum(pending.size for pending in self._pending.values())
        for key, pending in sorted(self._pending.items(), key=lambda item: item[1].born):
            if now - pending.born > LIFETIME_MS or held > MAX_HELD_BYTES:
                held -= pending.size
                given_up += self._pending.pop(key).deliveries
        return given_up

    def forget(self, agent_id: str, before: int) -> list[Delivery]:
        """Give up the evidence of ``agent_id`` for challenges older than ``before``."""
        stale = [key for key in self._pending if key[0] == agent_id and key[1] < before]
        return [delivery for key in stale for delivery in self._pending.pop(key).deliveries]

    def drain(self) -> list[Delivery]:
        """Give up everything."""
        deliveries = [delivery for pending in self._pending.values() for delivery in pending.deliveries]
        self._pending.clear()
        return deliveries

    def _of(self, agent_id: str, seq: int, now: int) -> _Pending:
        return self._pending.setdefault((agent_id, seq), _Pending(born=now))

    def _finish(self, agent_id: str, seq: int) -> Whole | None:
        pending = self._pending[agent_id, seq]
        head = pending.head
        if head is None or not pending.complete:
            return None
        del self._pending[agent_id, seq]
        ordered = [pending.parts[index] for index in sorted(pending.parts)]
        log = b"".join(part.data for part in ordered if not part.boot)
        boot = b"".join(part.data for part in ordered if part.boot)
        ima = msgspec.structs.replace(head.ima, data=log) if head.ima is not None else None
        return Whole(msgspec.structs.replace(head, ima=ima, boot_log=boot, parts=0), pending.deliveries)
