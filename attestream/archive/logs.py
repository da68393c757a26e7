"""The IMA log of a boot, put together from the segments that verifiers have kept of it.

What is put together proves nothing by itself: whoever appraises it replays it against a quoted PCR 10. It is nevertheless
taken only from segments that a verifier has signed, so that nobody who holds the bus can make an honest machine fail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from attestream.archive.packing import MAX_BYTES, unpack
from attestream.archive.reading import index
from attestream.bus import objects
from attestream.errors import MalformedError, RefusedError
from attestream.ima.log import ASCII, BINARY
from schemas import subjects, topology
from schemas.archive import LogSegment
from schemas.attestation import ImaDelta
from schemas.base import Decoder, SchemaError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_log = logging.getLogger(__name__)

_SEGMENT: Final = Decoder[LogSegment](LogSegment)


class Boot(NamedTuple):
    """Names a boot of an enrolled TPM."""

    enrolment: int
    reset_count: int
    restart_count: int


class Piece(NamedTuple):
    """What a segment contributes to a log."""

    segment: LogSegment
    skip: int
    """Entries at its beginning that the pieces before it have."""


class Chain(NamedTuple):
    """The pieces of one log, without a gap between them."""

    pieces: tuple[Piece, ...]
    entries: int
    """Entries from the first of the log on."""
    missing: bool
    """Whether there are segments behind a gap."""


async def segments(bus: Bus, agent_id: str, boot: Boot) -> list[LogSegment]:
    """Return what is kept of a boot's log, in the order of its writing. What is not believed is logged and left out.

    :raises BusError: when the bus does not answer.
    """
    subject, found = subjects.archived_log(agent_id), []
    async for stored in index(bus, subject):
        try:
            segment = _SEGMENT.decode(stored.data)
            if (segment.enrolment, segment.reset_count, segment.restart_count) != boot:
                continue
            await bus.trust.author_of(stored)
            if segment.agent_id == agent_id:
                found.append(segment)
        except (SchemaError, RefusedError) as error:
            _log.error("segment %d of the log of %s is not believed: %s", stored.sequence, agent_id, error)
    return found


def chain(found: Iterable[LogSegment]) -> Chain:
    """Return the pieces that make up the log from its first entry on as far as there is no gap."""
    pieces: list[Piece] = []
    end, missing = 0, False
    for segment in found:
        after = segment.first + segment.count
        if segment.first == 0 and after >= end:
            pieces, end, missing = [Piece(segment, 0)], after, False
        elif not pieces or segment.first > end or segment.ascii != pieces[0].segment.ascii:
            missing = True
        elif after > end:
            pieces.append(Piece(segment, end - segment.first))
            end = after
    return Chain(tuple(pieces), end, missing)


async def read_log(bus: Bus, agent_id: str, boot: Boot, count: int | None = None) -> ImaDelta | None:
    """Return the first ``count`` entries (default: all that are known) of a boot's log; ``None`` when they are not kept.

    :raises BusError: when the bus does not answer.
    """
    linked = chain(await segments(bus, agent_id, boot))
    wanted = linked.entries if count is None else count
    if not linked.pieces or wanted > linked.entries:
        return None
    if sum(piece.segment.size for piece in linked.pieces) > MAX_BYTES:
        _log.error("the kept log of %s is over the limit of %d bytes", agent_id, MAX_BYTES)
        return None
    ascii_form = linked.pieces[0].segment.ascii
    try:
        return await _joined(bus, linked, wanted, ascii_form=ascii_form)
    except MalformedError as error:
        _log.error("the kept log of %s can not be used: %s", agent_id, error.message)
        return None


async def _joined(bus: Bus, linked: Chain, wanted: int, *, ascii_form: bool) -> ImaDelta | None:
    parts: list[bytes] = []
    entries = 0
    for segment, skip in linked.pieces:
        if entries == wanted:
            break
        data = await content(bus, segment)
        if data is None:
            return None
        take = min(segment.count - skip, wanted - entries)
        parts.append(cut(data, skip, take, segment.count, ascii_form=ascii_form))
        entries += take
    return ImaDelta(ima_first=0, count=wanted, data=b"".join(parts), ascii=ascii_form)


async def content(bus: Bus, segment: LogSegment) -> bytes | None:
    """Return the entries of a segment; ``None`` when they have made room for newer ones.

    :raises MalformedError: when they are not what the verifier has signed.
    :raises BusError: when the bus does not answer.
    """
    data: bytes | None = segment.data
    if segment.object:
        data = await objects.get(bus, topology.ARCHIVE_BUCKET, segment.object)
    return None if data is None else unpack(data, segment.size)


def cut(data: bytes, skip: int, take: int, count: int, *, ascii_form: bool) -> bytes:
    """Return ``take`` of the ``count`` entries in ``data``, after the first ``skip``.

    :raises MalformedError: when it does not have so many.
    """
    if skip == 0 and take == count:
        return data + b"\n" if ascii_form and not data.endswith(b"\n") else data
    split = (ASCII if ascii_form else BINARY).split
    records: list[bytes] = []
    for record in split(data):
        if len(records) == skip + take:
            break
        records.append(record)
    if len(records) < skip + take:
        raise MalformedError(f"a segment has {len(records)} entries; {skip + take} are needed")
    return b"".join(record + b"\n" if ascii_form else record for record in records[skip:])
