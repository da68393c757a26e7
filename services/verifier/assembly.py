"""Puts evidence of several parts together. Parts stay unacknowledged until the whole has been appraised."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from attestream.bus.consume import Delivery
from schemas.attestation import MAX_PARTS, PART_BYTES, Evidence, EvidencePart

MAX_HELD_BYTES = 128 << 20
"""Bytes of messages that one worker's partition holds for incomplete evidence, whatever is in them."""

MAX_DELIVERIES = MAX_PARTS + 32
"""Messages held for one evidence: a few may be delivered twice, but an agent can not fill the partition with repeats."""

MAX_HELD = 3 * (MAX_PARTS + 1)
"""Messages held for all incomplete evidence of a partition: what else comes must always find room."""

LIFETIME_MS = 20_000
"""How long incomplete evidence is kept; the agent is asked again long before."""

ORPHANS_MS = 3_000
"""How long parts are kept without the quote that they belong to: agents send it first."""


@dataclass
class _Pending:
    seq: int
    born: int
    head: Evidence | None = None
    parts: dict[int, EvidencePart] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    size: int = 0

    def old(self, now: int) -> bool:
        """Return whether it has been waited for long enough."""
        return now - self.born > (LIFETIME_MS if self.head is not None else min(LIFETIME_MS, ORPHANS_MS))

    @property
    def complete(self) -> bool:
        return self.head is not None and len(self.parts) >= self.head.parts


@dataclass
class Whole:
    """Complete evidence and what to acknowledge once it has taken effect."""

    evidence: Evidence
    deliveries: list[Delivery]


class Assembly:
    """Incomplete evidence of one partition: of each agent only that for its newest challenge.

    What is given up is to be acknowledged by the caller (:meth:`given_up`); its agent will be challenged again.
    """

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._given_up: list[Delivery] = []

    def head(self, evidence: Evidence, delivery: Delivery, now: int) -> Whole | None:
        """Take the quote of evidence that has parts."""
        pending = self._of(evidence.agent_id, evidence.seq, delivery, now)
        if pending is None:
            return None
        pending.head = evidence
        return self._finish(evidence.agent_id, pending)

    def part(self, part: EvidencePart, delivery: Delivery, now: int) -> Whole | None:
        """Take a part. One that is out of bounds never becomes part of a whole."""
        pending = self._of(part.agent_id, part.seq, delivery, now)
        if pending is None:
            return None
        if 0 <= part.index < MAX_PARTS and len(part.data) <= PART_BYTES and part.index not in pending.parts:
            pending.parts[part.index] = part
        return self._finish(part.agent_id, pending)

    def given_up(self, now: int) -> list[Delivery]:
        """Give up what is too old, and the largest while too much is held; return all that was given up since last time."""
        if not self._pending and not self._given_up:
            return []
        size = sum(pending.size for pending in self._pending.values())
        count = sum(len(pending.deliveries) for pending in self._pending.values())
        # Parts without a quote first, then the largest and not the oldest: who sends too much does not push out what others
        # have sent before.
        for agent_id, pending in sorted(self._pending.items(), key=_burden, reverse=True):
            if pending.old(now) or size > MAX_HELD_BYTES or count > MAX_HELD:
                size -= pending.size
                count -= len(pending.deliveries)
                self._give_up(agent_id)
        given_up, self._given_up = self._given_up, []
        return given_up

    def drain(self) -> list[Delivery]:
        """Give up everything."""
        for agent_id in list(self._pending):
            self._give_up(agent_id)
        given_up, self._given_up = self._given_up, []
        return given_up

    def _of(self, agent_id: str, seq: int, delivery: Delivery, now: int) -> _Pending | None:
        pending = self._pending.get(agent_id)
        if pending is not None and pending.seq > seq:
            self._given_up.append(delivery)
            return None
        if pending is None or pending.seq < seq or len(pending.deliveries) > MAX_DELIVERIES:
            self._give_up(agent_id)
            pending = self._pending[agent_id] = _Pending(seq=seq, born=now)
        pending.deliveries.append(delivery)
        pending.size += delivery.size
        return pending

    def _give_up(self, agent_id: str) -> None:
        pending = self._pending.pop(agent_id, None)
        if pending is not None:
            self._given_up += pending.deliveries

    def _finish(self, agent_id: str, pending: _Pending) -> Whole | None:
        head = pending.head
        if head is None or not pending.complete:
            return None
        del self._pending[agent_id]
        ordered = [pending.parts[index] for index in sorted(pending.parts)]
        log = b"".join(part.data for part in ordered if not part.boot)
        boot = b"".join(part.data for part in ordered if part.boot)
        ima = msgspec.structs.replace(head.ima, data=log) if head.ima is not None else None
        return Whole(msgspec.structs.replace(head, ima=ima, boot_log=boot, parts=0), pending.deliveries)


def _burden(item: tuple[str, _Pending]) -> tuple[bool, float]:
    pending = item[1]
    return pending.head is None, pending.size / MAX_HELD_BYTES + len(pending.deliveries) / MAX_HELD
