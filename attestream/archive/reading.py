"""The archive as it is read: lines of the index that a verifier has signed, and what they name."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from attestream.archive.packing import unpack
from attestream.archive.replaying import decode_appraisal
from attestream.bus import objects
from attestream.bus.stored import Stored, get_batch
from attestream.errors import AttestreamError, MalformedError, RefusedError, UnknownEvidenceError
from schemas import subjects, topology
from schemas.archive import ArchivedAppraisal, ArchiveEntry
from schemas.base import Decoder, SchemaError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_log = logging.getLogger(__name__)

_BATCH: Final = 512
_ENTRY: Final = Decoder[ArchiveEntry](ArchiveEntry)

OnRejected = Callable[[Stored, AttestreamError], None]


class Kept(msgspec.Struct, frozen=True):
    """A line of the index."""

    number: int
    """Its sequence in the stream."""
    entry: ArchiveEntry
    stored: Stored
    """As its verifier has signed it."""


def log_rejected(stored: Stored, error: AttestreamError) -> None:
    """Log that a line of the index is not believed."""
    _log.error("line %d of the archive is not believed: %s", stored.sequence, error.message)


async def entries(
    bus: Bus, agent_id: str = "", *, since: int = 0, until: int = 0, on_rejected: OnRejected = log_rejected
) -> AsyncIterator[Kept]:
    """Yield the lines about ``agent_id`` (default: about everybody) that were written between two times (Unix ms; 0: no
    bound), in their order. Those that are not believed are handed to ``on_rejected``.

    :raises MalformedError: when ``agent_id`` can not be one.
    :raises BusError: when the bus does not answer.
    """
    try:
        pattern = subjects.archived_evidence(agent_id) if agent_id else subjects.ARCHIVED_EVIDENCE
    except SchemaError as error:
        raise MalformedError(str(error)) from error
    async for stored in index(bus, pattern, since):
        if until and stored.at >= until:
            return
        try:
            yield await _believed(bus, stored)
        except (RefusedError, MalformedError) as error:
            on_rejected(stored, error)


async def index(bus: Bus, pattern: str, since: int = 0) -> AsyncIterator[Stored]:
    """Yield what the index holds under subjects that match ``pattern``, from a time (Unix ms) on, in its order.

    :raises BusError: when the bus does not answer.
    """
    place: dict[str, Any] = {"start_time": _text(since)} if since else {"seq": 1}
    while True:
        batch = await get_batch(bus, topology.ARCHIVE.name, place | {"next_by_subj": pattern, "batch": _BATCH})
        for stored in batch.messages:
            yield stored
        if not batch.messages:
            return
        place = {"seq": batch.messages[-1].sequence + 1}


async def find(bus: Bus, number: int) -> Kept:
    """Return line ``number`` of the index.

    :raises UnknownEvidenceError: when there is none.
    :raises SignatureError: when no verifier has signed it.
    :raises MalformedError: when it can not be read.
    :raises BusError: when the bus does not answer.
    """
    request = {"seq": number, "next_by_subj": subjects.ARCHIVED_EVIDENCE, "batch": 1}
    batch = await get_batch(bus, topology.ARCHIVE.name, request) if number > 0 else None
    if batch is None or not batch.messages or batch.messages[0].sequence != number:
        raise UnknownEvidenceError(f"there is no kept evidence {number}")
    return await _believed(bus, batch.messages[0])


async def packed(bus: Bus, kept: Kept) -> bytes:
    """Return the object that a line names, as it is stored.

    :raises UnknownEvidenceError: when it has made room for newer ones.
    :raises MalformedError: when it is not what its name says.
    :raises BusError: when the bus does not answer.
    """
    try:
        data = await objects.get(bus, topology.ARCHIVE_BUCKET, kept.entry.object)
    except MalformedError as error:
        raise MalformedError(
            f"the object of kept evidence {kept.number} is not what the verifier has signed: {error.message}",
            remedy="The oldest pieces go first when the archive is full; if it is not, somebody has changed it.",
        ) from error
    if data is None:
        raise UnknownEvidenceError(f"the object of kept evidence {kept.number} has made room for newer ones")
    return data


def opened(entry: ArchiveEntry, data: bytes) -> ArchivedAppraisal:
    """Return the appraisal in an object whose digest is that in ``entry``.

    :raises MalformedError: when it can not be read, or is another one than the line says.
    """
    kept = decode_appraisal(unpack(data, entry.size))
    if (kept.agent_id, kept.received_at, kept.verdict, kept.policy_digest) != (
        entry.agent_id,
        entry.at,
        entry.verdict,
        entry.policy_digest,
    ):
        raise MalformedError("the kept appraisal is another one than its line in the index says")
    return kept


async def appraisal(bus: Bus, kept: Kept) -> ArchivedAppraisal:
    """Return what a line names. Errors are those of :func:`packed` and :func:`opened`."""
    return opened(kept.entry, await packed(bus, kept))


def decode_entry(data: bytes, subject: str) -> ArchiveEntry:
    """Return the line in ``data``, which is stored under ``subject``.

    :raises MalformedError: when it can not be read, or is about another agent.
    """
    try:
        entry = _ENTRY.decode(data)
        if subjects.archived_evidence(entry.agent_id) == subject:
            return entry
    except SchemaError as error:
        raise MalformedError(f"a line of the archive can not be read: {error}") from error
    raise MalformedError(f"a line about {entry.agent_id} was stored under {subject}")


async def _believed(bus: Bus, stored: Stored) -> Kept:
    await bus.trust.author_of(stored)
    return Kept(number=stored.sequence, entry=decode_entry(stored.data, stored.subject), stored=stored)


def _text(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat().replace("+00:00", "Z")
