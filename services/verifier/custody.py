"""Custody of IMA logs: proven entries are kept per boot, and used where an agent's kernel has them no more.

A row of the database holds what a takeover needs (how many entries are proven, and PCR 10 after them). The entries
themselves are needed only when they have to be judged again: by a new policy, or from the beginning.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from attestream.appraisal.appraise import Appraisal, Verdict
from attestream.appraisal.clock import restarted
from attestream.archive.logs import Boot, chain, cut, read_log, segments
from attestream.archive.packing import pack
from attestream.archive.replaying import with_earlier
from attestream.bus import objects
from attestream.bus.connection import Bus
from attestream.errors import MalformedError
from attestream.tpm.structures import parse_quote
from schemas import subjects, topology
from schemas.archive import INLINE_BYTES, LogSegment
from schemas.attestation import Evidence, ImaDelta
from services.verifier.attester import Attester

MAX_PIECES: Final = 64
"""Segments of one boot's log behind its first; then they become one, which also lives for its whole time again."""

MAX_KNOWN: Final = 16_384
"""Agents whose chains a worker remembers."""

SMALL: Final = 65_536


class Grown(NamedTuple):
    """Entries that an appraisal has proven."""

    agent_id: str
    boot: Boot
    ima: ImaDelta
    proven: int
    """Of its entries."""
    worker: str

    @classmethod
    def of(cls, attester: Attester, evidence: Evidence, appraisal: Appraisal) -> Grown | None:
        """Return what ``appraisal`` has proven of the log in ``evidence``, if it has proven anything new."""
        ima, state = evidence.ima, appraisal.state
        if appraisal.verdict is not Verdict.PASS or ima is None or state.ima_entries <= ima.ima_first:
            return None
        boot = Boot(attester.enrolment, state.reset_count, state.restart_count)
        return cls(attester.agent_id, boot, ima, state.ima_entries - ima.ima_first, attester.partition.worker)


class _Known(NamedTuple):
    boot: Boot
    pieces: int
    since: int
    """When its first segment was written (Unix ms)."""


class Custody:
    """The kept logs of a worker's agents."""

    def __init__(self, bus: Bus, clock: Callable[[], int]) -> None:
        self._bus = bus
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def keep(self, grown: Grown, ttl_s: int) -> None:
        """Write new entries, and from time to time the whole log as one segment.

        :raises BusError: when the bus does not take them.
        :raises MalformedError: when they can not be told apart.
        """
        ima = grown.ima
        data = cut(ima.data, 0, grown.proven, ima.count, ascii_form=ima.ascii)
        await self._write(grown, ImaDelta(ima_first=ima.ima_first, count=grown.proven, data=data, ascii=ima.ascii), ttl_s)
        known = await self._note(grown)
        if known.pieces > MAX_PIECES or self._clock() - known.since > ttl_s * 1000 // 2:
            whole = await read_log(self._bus, grown.agent_id, grown.boot)
            if whole is not None:
                await self._write(grown, whole, ttl_s)
            # What can not be put together is not tried again with each entry.
            self._known[grown.agent_id] = _Known(grown.boot, 1, self._clock())

    async def _note(self, grown: Grown) -> _Known:
        known = self._known.pop(grown.agent_id, None)
        if grown.ima.ima_first == 0:
            known = _Known(grown.boot, 1, self._clock())
        elif known is not None and known.boot == grown.boot:
            known = known._replace(pieces=known.pieces + 1)
        else:
            pieces = chain(await segments(self._bus, grown.agent_id, grown.boot)).pieces
            since = pieces[0].segment.at if pieces else self._clock()
            known = _Known(grown.boot, max(1, len(pieces)), since)
        self._known[grown.agent_id] = known
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return known

    async def _write(self, grown: Grown, ima: ImaDelta, ttl_s: int) -> None:
        packed = pack(ima.data) if len(ima.data) <= SMALL else await asyncio.to_thread(pack, ima.data)
        name = ""
        if len(packed) > INLINE_BYTES:
            name = await objects.put(self._bus, topology.ARCHIVE_BUCKET, packed, ttl_s=ttl_s)
        segment = LogSegment(
            agent_id=grown.agent_id,
            at=self._clock(),
            enrolment=grown.boot.enrolment,
            reset_count=grown.boot.reset_count,
            restart_count=grown.boot.restart_count,
            first=ima.ima_first,
            count=ima.count,
            ascii=ima.ascii,
            size=len(ima.data),
            data=b"" if name else packed,
            object=name,
            worker=grown.worker,
        )
        boot = ".".join(map(str, grown.boot))
        await self._bus.publish_durable(
            subjects.archived_log(grown.agent_id),
            segment,
            message_id=f"log:{grown.agent_id}:{boot}:{ima.ima_first}:{ima.count}",
            ttl_s=ttl_s,
            sign=True,
        )


def lacking(attester: Attester, evidence: Evidence) -> Boot | None:
    """Return the boot whose log has to be judged from its beginning, when ``evidence`` does not have that; else ``None``."""
    ima, state = evidence.ima, attester.state
    if ima is None or ima.ima_first <= 0 or attester.policy.runtime is None:
        return None
    try:
        # Not verified yet: one that lies about its boot fails.
        clock = parse_quote(evidence.quote).clock
    except MalformedError:
        return None
    if state.policy == attester.policy.digest and state.ima_entries and not restarted(clock, state):
        return None
    return Boot(attester.enrolment, clock.reset_count, clock.restart_count)


async def completed(bus: Bus, attester: Attester, evidence: Evidence, boot: Boot) -> Evidence:
    """Return ``evidence`` with the entries of ``boot`` put before its own that were kept and that its kernel has no more.

    Without them it stays as it is: incomplete, so that it renews nothing. The quote has to prove what was put in front.

    :raises BusError: when the bus does not answer.
    """
    ima = evidence.ima
    earlier = await read_log(bus, attester.agent_id, boot, ima.ima_first) if ima is not None else None
    if ima is None or earlier is None or (ima.count and earlier.ascii != ima.ascii):
        return evidence
    return with_earlier(evidence, earlier)
