"""The PCR values beside a quote as tpm2-tools and the agents write them: C structures straight from memory, little-endian.

``TPML_PCR_SELECTION``: a count and 16 entries of 8 bytes (hash, size of the bitmap, bitmap of 4 bytes, padding); then the
number of lists; then each ``TPML_DIGEST``: a count and 8 slots of 66 bytes (size, value, padding). Bytes of padding and of
unused entries are whatever was in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from attestream.errors import MalformedError
from attestream.tpm.algorithms import hash_by_id, hash_named
from attestream.tpm.selection import MAX_BANKS, Selection, bitmap_pcrs

_COUNT: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HB4sx")
_SLOT: Final = struct.Struct("<H64s")
_SLOTS: Final = 8
_SELECT_BYTES: Final = 3
_LISTS_AT: Final = _COUNT.size + MAX_BANKS * _ENTRY.size
_LIST_BYTES: Final = _COUNT.size + _SLOTS * _SLOT.size
_MAX_LISTS: Final = MAX_BANKS * 4


class PcrBlob(NamedTuple):
    """What is claimed to have been quoted."""

    selection: Selection
    values: Mapping[str, Mapping[int, bytes]]
    """Bank -> PCR -> value, of exactly the selection."""


def parse_pcr_blob(data: bytes) -> PcrBlob:
    """Return selection and values in ``data``.

    :raises MalformedError: when it is cut off, has trailing bytes, or not one value of the right size for each selected PCR.
    :raises UnsupportedError: when a bank's hash is not known.
    """
    if len(data) < _LISTS_AT + _COUNT.size:
        raise MalformedError(f"the PCR values end too early, after {len(data)} bytes")
    (count,), (lists,) = _COUNT.unpack_from(data), _COUNT.unpack_from(data, _LISTS_AT)
    if count > MAX_BANKS or lists > _MAX_LISTS or len(data) != _LISTS_AT + _COUNT.size + lists * _LIST_BYTES:
        raise MalformedError(f"{count} banks and {lists} lists of PCR values do not make {len(data)} bytes")
    selection = tuple(_bank(data, _COUNT.size + index * _ENTRY.size) for index in range(count))
    given = iter(_digests(data, lists))
    values: dict[str, dict[int, bytes]] = {}
    for bank, pcrs in selection:
        held = values.setdefault(bank, {})
        for pcr in pcrs:
            value = next(given, b"")
            if len(value) != hash_named(bank).size or pcr in held:
                raise MalformedError(f"PCR {pcr} of bank {bank} has no value, a second one or one of the wrong size")
            held[pcr] = value
    if next(given, None) is not None:
        raise MalformedError("there are more PCR values than selected PCRs")
    return PcrBlob(selection, values)


def _bank(data: bytes, at: int) -> tuple[str, tuple[int, ...]]:
    number, size, bitmap = _ENTRY.unpack_from(data, at)
    if size not in (0, _SELECT_BYTES):
        raise MalformedError(f"a PCR bitmap has {_SELECT_BYTES} bytes here, not {size}")
    return hash_by_id(number).name, bitmap_pcrs(bitmap[:size])


def _digests(data: bytes, lists: int) -> list[bytes]:
    """Return the values of all lists. A list's own count says nothing: what is not used has size 0."""
    values = []
    for index in range(lists):
        start = _LISTS_AT + _COUNT.size + index * _LIST_BYTES + _COUNT.size
        for slot in range(_SLOTS):
            size, value = _SLOT.unpack_from(data, start + slot * _SLOT.size)
            if size > len(value):
                raise MalformedError(f"a PCR value has {size} bytes; the limit is {len(value)}")
            if size:
                values.append(value[:size])
    return values


def build_pcr_blob(selection: Selection, values: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """Return the blob of ``values`` in the order of ``selection``. The counterpart of :func:`parse_pcr_blob`.

    :raises MalformedError: when there are too many banks, a PCR is over 23, or a value is missing or too long.
    :raises UnsupportedError: when a bank is not known.
    """
    if len(selection) > MAX_BANKS or any(pcr >= 8 * _SELECT_BYTES for _, pcrs in selection for pcr in pcrs):
        raise MalformedError(f"at most {MAX_BANKS} banks and PCRs 0 to {8 * _SELECT_BYTES - 1} can be written")
    entries = b""
    digests = []
    for bank, pcrs in selection:
        bitmap = sum(1 << pcr for pcr in pcrs).to_bytes(4, "little")
        entries += _ENTRY.pack(hash_named(bank).tpm_id, _SELECT_BYTES, bitmap)
        for pcr in pcrs:
            value = values.get(bank, {}).get(pcr, b"")
            if len(value) != hash_named(bank).size:
                raise MalformedError(f"PCR {pcr} of bank {bank} has no value of the right size")
            digests.append(value)
    chunks = [digests[at : at + _SLOTS] for at in range(0, len(digests), _SLOTS)]
    lists = b"".join(_COUNT.pack(len(chunk)) + _slots(chunk) for chunk in chunks)
    head = _COUNT.pack(len(selection)) + entries.ljust(MAX_BANKS * _ENTRY.size, b"\0")
    return head + _COUNT.pack(len(chunks)) + lists


def _slots(values: list[bytes]) -> bytes:
    return b"".join(_SLOT.pack(len(value), value) for value in values).ljust(_SLOTS * _SLOT.size, b"\0")
