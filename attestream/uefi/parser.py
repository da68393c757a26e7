"""Parser of the TCG PC Client event log: SHA-1 and crypto-agile, from TPM (ACPI TPM2/TCPA) and CCEL tables.

Layouts: PC Client Platform Firmware Profile 1.06, section 10.2 (TCG_PCR_EVENT, TCG_PCR_EVENT2, TCG_EfiSpecIDEvent);
numbers are little-endian. Only the framing is read here: what an event says is decoded after the PCRs have proven it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.uefi.kinds import NO_ACTION
from attestream.uefi.log import MAX_DIGESTS, MAX_EVENTS, MAX_LOG_BYTES, PCR_COUNT, Digest, Event, EventLog, SpecId

_LEGACY: Final = Struct("<II20sI")
"""pcrIndex, eventType, SHA-1 digest, eventDataSize."""
_HEADER: Final = Struct("<III")
"""pcrIndex, eventType, digest count."""
_SPEC_ID: Final = Struct("<16sIBBBBI")
_ALGORITHM: Final = Struct("<HH")
_NUMBER16: Final = Struct("<H")
_NUMBER32: Final = Struct("<I")
_SHA1: Final = 0x0004
_KNOWN_SIZES: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64}
_AGILE_SIGNATURE: Final = b"Spec ID Event03\0"
_HEADER_PLACES: Final = (0, 1)
"""PCR 0; measurement register 1 in the CCEL table of a TDX guest."""
_PADDING: Final = (0x00, 0xFF)


def parse_log(data: bytes, *, padded: bool = True) -> EventLog:
    """Return the events of the log ``data``.

    With ``padded`` a tail that is all 0x00 or all 0xFF is the unused rest of a firmware table. Without it every byte
    must belong to an event, and an event of zeros without digests is one: so reads ``tpm2_eventlog``.

    :raises TooLargeError: over 16 MiB or 65,536 events.
    :raises UnsupportedError: a crypto-agile log of another version than Spec ID Event03.
    :raises MalformedError: anything else that is wrong, with its offset.
    """
    if len(data) > MAX_LOG_BYTES:
        raise TooLargeError(f"the event log has {len(data)} bytes; the limit is {MAX_LOG_BYTES}")
    if len(data) < _LEGACY.size:
        raise MalformedError(f"the event log ends at byte {len(data)}; its first event needs {_LEGACY.size}")
    first, after = _legacy_event(data, 0, 0)
    if first.kind != NO_ACTION or first.data.startswith(b"Spec ID Event00"):
        return _parse_legacy(data, padded=padded)
    spec_id = _parse_spec_id(first)
    return _parse_agile(data, first, after, spec_id, padded=padded)


def _parse_legacy(data: bytes, *, padded: bool) -> EventLog:
    events: list[Event] = []
    at = 0
    while at < len(data):
        if padded and data[at] in _PADDING and _is_padding(data, at, _LEGACY.size):
            return EventLog(None, None, tuple(events), at, len(data) - at)
        event, after = _legacy_event(data, at, len(events))
        if not any(data[at : at + _LEGACY.size]):
            raise MalformedError(f"event {len(events)} of the event log, at byte {at}, is empty")
        _check_place(event)
        events.append(event)
        at = after
    return EventLog(None, None, tuple(events), at, 0)


def _legacy_event(data: bytes, at: int, number: int) -> tuple[Event, int]:
    start = at + _LEGACY.size
    if start > len(data):
        raise _truncated(number, at, len(data))
    pcr, kind, digest, size = _LEGACY.unpack_from(data, at)
    end = start + size
    if end > len(data):
        raise _truncated(number, at, len(data))
    return Event(number, at, pcr, kind, ((_SHA1, digest),), data[start:end]), end


def _parse_spec_id(event: Event) -> SpecId:
    body = event.data
    if event.pcr not in _HEADER_PLACES or any(event.digests[0][1]):
        raise MalformedError(f"the event log's header names PCR {event.pcr} or has a digest that is not zero")
    if len(body) < _SPEC_ID.size:
        raise MalformedError(f"the event log's header has {len(body)} bytes; at least {_SPEC_ID.size} are needed")
    signature, platform, minor, major, errata, uintn, count = _SPEC_ID.unpack_from(body)
    if signature != _AGILE_SIGNATURE:
        raise UnsupportedError(f"the event log's header has the signature {signature!r}, not Spec ID Event03")
    if not 0 < count <= MAX_DIGESTS:
        raise MalformedError(f"the event log's header declares {count} algorithms; 1 to {MAX_DIGESTS} are possible")
    end = _SPEC_ID.size + count * _ALGORITHM.size
    if end >= len(body):
        raise MalformedError(f"the event log's header ends at byte {len(body)}, within its {count} algorithms")
    algorithms = tuple(_ALGORITHM.iter_unpack(body[_SPEC_ID.size : end]))
    if len({algorithm for algorithm, _size in algorithms}) != count:
        raise MalformedError("the event log's header declares an algorithm twice")
    for algorithm, size in algorithms:
        if size != _KNOWN_SIZES.get(algorithm, size) or not 0 < size <= 64:
            raise MalformedError(f"the event log's header gives algorithm 0x{algorithm:04x} digests of {size} bytes")
    vendor = body[end + 1 :]
    if len(vendor) != body[end]:
        raise MalformedError(f"the event log's header has {len(vendor)} bytes of vendor data and declares {body[end]}")
    return SpecId(signature[:-1].decode("ascii"), platform, minor, major, errata, uintn, algorithms, vendor)


def _parse_agile(data: bytes, header: Event, at: int, spec_id: SpecId, *, padded: bool) -> EventLog:
    usual = _UsualEvents(spec_id)
    sizes = dict(spec_id.algorithms)
    events: list[Event] = []
    total = len(data)
    while (at := usual.read(data, at, events)) < total:
        if padded and data[at] in _PADDING and _is_padding(data, at, _HEADER.size):
            return EventLog(spec_id, header, tuple(events), at, total - at)
        event, at = _agile_event(data, at, len(events) + 1, sizes, padded=padded)
        _check_place(event)
        events.append(event)
    return EventLog(spec_id, header, tuple(events), at, 0)


class _UsualEvents:
    """Reads events with one digest of each algorithm, in the order of the header: so are almost all, and it is quick."""

    __slots__ = ("_first", "_head", "_mark", "_marks", "_others", "_rest")

    def __init__(self, spec_id: SpecId) -> None:
        (self._first, size), *others = spec_id.algorithms
        # The count of digests and the first one's algorithm are next to each other: one comparison is for both.
        self._mark = _NUMBER32.pack(len(spec_id.algorithms)) + _NUMBER16.pack(self._first)
        self._others = [algorithm for algorithm, _size in others]
        self._marks = tuple([_NUMBER16.pack(algorithm) for algorithm in self._others])
        self._rest = Struct("".join(f"2s{size}s" for _algorithm, size in others))
        # All other digests are one field: many logs have none, and those are spared taking it apart.
        self._head = Struct(f"<II6s{size}s{self._rest.size}sI")

    def read(self, data: bytes, at: int, events: list[Event]) -> int:
        """Add the usual events from ``at`` on to ``events``; return where one begins that is none, or cut, or out of bounds.

        Padding is none: an event of 0x00 or 0xFF would have no digest, or too many.
        """
        unpack, size, mark, first = self._head.unpack_from, self._head.size, self._mark, self._first
        total, number = len(data), len(events)
        last = total - size
        while at <= last and number < MAX_EVENTS - 1:
            pcr, kind, found, digest, rest, length = unpack(data, at)
            start = at + size
            end: int = start + length
            if found != mark or pcr >= PCR_COUNT or end > total:
                break
            digests: tuple[Digest, ...] = ((first, digest),)
            if rest:
                parts = self._rest.unpack(rest)
                if parts[::2] != self._marks:
                    break
                digests += tuple(zip(self._others, parts[1::2], strict=True))
            number += 1
            events.append(Event(number, at, pcr, kind, digests, data[start:end]))
            at = end
        return at


def _agile_event(data: bytes, at: int, number: int, sizes: dict[int, int], *, padded: bool) -> tuple[Event, int]:
    total = len(data)
    if at + _HEADER.size > total:
        raise _truncated(number, at, total)
    pcr, kind, count = _HEADER.unpack_from(data, at)
    if (count == 0 and padded) or count > len(sizes):
        raise MalformedError(f"event {number} of the event log, at byte {at}, has {count} digests, not 1 to {len(sizes)}")
    digests, end = _digests(data, at + _HEADER.size, number, count, sizes)
    if end + 4 > total:
        raise _truncated(number, at, total)
    start = end + 4
    end = start + _NUMBER32.unpack_from(data, end)[0]
    if end > total:
        raise _truncated(number, at, total)
    return Event(number, at, pcr, kind, digests, data[start:end]), end


def _digests(data: bytes, at: int, number: int, count: int, sizes: dict[int, int]) -> tuple[tuple[Digest, ...], int]:
    found: list[Digest] = []
    for _ in range(count):
        if at + 2 > len(data):
            raise _truncated(number, at, len(data))
        algorithm = _NUMBER16.unpack_from(data, at)[0]
        size = sizes.get(algorithm)
        if size is None:
            raise MalformedError(
                f"event {number} of the event log, at byte {at}, has a digest of the undeclared algorithm 0x{algorithm:04x}"
            )
        end = at + 2 + size
        if end > len(data):
            raise _truncated(number, at, len(data))
        found.append((algorithm, data[at + 2 : end]))
        at = end
    if count > 1 and len({algorithm for algorithm, _value in found}) != count:
        raise MalformedError(f"event {number} of the event log, before byte {at}, has two digests of one algorithm")
    return tuple(found), at


def _check_place(event: Event) -> None:
    if event.number >= MAX_EVENTS:
        raise TooLargeError(f"the event log has more than {MAX_EVENTS} events")
    # Windows ends its part of the log with EV_NO_ACTION events in PCR 0xFFFFFFFF, which are never extended.
    if event.pcr >= PCR_COUNT and event.kind != NO_ACTION:
        raise MalformedError(
            f"event {event.number} of the event log, at byte {event.offset}, names PCR {event.pcr}, which no TPM has"
        )


def _is_padding(data: bytes, at: int, prefix: int) -> bool:
    """Whether all from ``at`` on is the byte there.

    The rest is looked at only when the first ``prefix`` bytes, the head of an event, are that byte: such an event is
    refused, so that the rest is looked at once and parsing stays linear.
    """
    fill = data[at : at + 1]
    if data[at : at + prefix].strip(fill):
        return False
    return not data[at:].strip(fill)


def _truncated(number: int, at: int, total: int) -> MalformedError:
    return MalformedError(f"the event log ends at byte {total}, within event {number}, which begins at byte {at}")
