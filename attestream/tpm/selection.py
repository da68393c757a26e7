"""Selections of PCRs (TPM 2.0 Part 2, sections 10.6.2, TPMS_PCR_SELECTION, and 10.9.7, TPML_PCR_SELECTION)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from attestream.errors import MalformedError, TooLargeError
from attestream.tpm.algorithms import hash_by_id, hash_named
from attestream.tpm.marshalling import Reader

Selection = tuple[tuple[str, tuple[int, ...]], ...]
"""PCR banks in signed order, each with its PCR indexes in ascending order."""

MAX_BANKS: Final = 16
"""Banks of one selection (TPML_PCR_SELECTION of HASH_COUNT entries)."""

_MAX_SELECT: Final = 4
_MAX_BYTES: Final = 4 + MAX_BANKS * (3 + _MAX_SELECT)


def bitmap_pcrs(bitmap: bytes) -> tuple[int, ...]:
    """Return the PCRs that ``bitmap`` selects, ascending.

    Bit n of byte m stands for PCR 8 m + n: read as a little-endian number, bit i is PCR i.
    """
    number = int.from_bytes(bitmap, "little")
    return tuple(pcr for pcr in range(8 * len(bitmap)) if number >> pcr & 1)


@lru_cache(maxsize=256)
def read_banks(count: int, data: bytes) -> Selection:
    """Return the ``count`` TPMS_PCR_SELECTION that fill ``data``. Kept, because a fleet quotes few different selections.

    :raises MalformedError: when they do not fill it, or a bitmap has an impossible size.
    :raises UnsupportedError: when a bank's hash is not known.
    """
    reader = Reader(data, "the PCR selection")
    banks = []
    for _ in range(count):
        bank = hash_by_id(reader.number(2)).name
        size = reader.number(1)
        if not 1 <= size <= _MAX_SELECT:
            raise MalformedError(f"a PCR bitmap has 1 to {_MAX_SELECT} bytes, not {size}")
        banks.append((bank, bitmap_pcrs(reader.take(size))))
    reader.finish()
    return tuple(banks)


def banks_end(data: bytes, start: int, count: int) -> int:
    """Return where ``count`` TPMS_PCR_SELECTION that begin at ``start`` end; past the end of ``data`` when it is cut off.

    :raises TooLargeError: when there are more than :data:`MAX_BANKS`.
    :raises IndexError: when ``data`` ends within one.
    """
    if count > MAX_BANKS:
        raise TooLargeError(f"the quote selects {count} PCR banks; the limit is {MAX_BANKS}")
    at = start
    for _ in range(count):
        at += 3 + data[at + 2]
    return at


def _bitmap(bank: str, pcrs: tuple[int, ...]) -> bytes:
    if any(not 0 <= pcr < 8 * _MAX_SELECT for pcr in pcrs) or tuple(sorted(set(pcrs))) != pcrs:
        raise MalformedError(f"PCRs of bank {bank} must be ascending numbers from 0 to 31: {pcrs}")
    width = _MAX_SELECT if pcrs and pcrs[-1] > 23 else 3
    return bytes((width,)) + sum(1 << pcr for pcr in pcrs).to_bytes(width, "little")


def parse_selection(data: bytes) -> Selection:
    """Return the selection in the TPML_PCR_SELECTION ``data``.

    :raises MalformedError: when it is cut off, has trailing bytes or a bitmap of an impossible size.
    :raises UnsupportedError: when a bank's hash is not known.
    """
    if not 4 <= len(data) <= _MAX_BYTES:
        raise MalformedError(f"a PCR selection has 4 to {_MAX_BYTES} bytes, not {len(data)}")
    count = int.from_bytes(data[:4], "big")
    if count > MAX_BANKS:
        raise TooLargeError(f"the selection has {count} PCR banks; the limit is {MAX_BANKS}")
    return read_banks(count, data[4:])


def build_selection(selection: Selection) -> bytes:
    """Return the TPML_PCR_SELECTION of ``selection``. Bitmaps have 3 bytes, as a PC Client TPM makes them, or 4 when needed.

    :raises MalformedError: when PCRs are out of range or not ascending, or there are too many banks.
    :raises UnsupportedError: when a bank is not known.
    """
    if len(selection) > MAX_BANKS:
        raise TooLargeError(f"a quote selects at most {MAX_BANKS} PCR banks")
    banks = (hash_named(bank).tpm_id.to_bytes(2, "big") + _bitmap(bank, pcrs) for bank, pcrs in selection)
    return len(selection).to_bytes(4, "big") + b"".join(banks)
