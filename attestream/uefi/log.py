"""What an event log holds once it is parsed."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

PCR_COUNT: Final = 24
"""PCRs of a PC Client TPM (TCG PC Client Platform TPM Profile, section 4.6)."""
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
MAX_EVENTS: Final = 65_536
MAX_DIGESTS: Final = 16
"""Digests an event may carry: one for each PCR bank."""


Digest = tuple[int, bytes]
"""A digest of one PCR bank: TPM_ALG_ID and value."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. ``number`` counts from 0 with the header as event 0 of a crypto-agile log; ``offset`` is in bytes."""

    number: int
    offset: int
    pcr: int
    kind: int
    digests: tuple[Digest, ...]
    data: bytes

    def digest(self, algorithm: int) -> bytes | None:
        """Return the digest for the bank with TPM_ALG_ID ``algorithm``, if the event has one."""
        for found, value in self.digests:
            if found == algorithm:
                return value
        return None


class SpecId(NamedTuple):
    """The header of a crypto-agile log: TCG_EfiSpecIDEvent (PC Client PFP, section 10.4.5.1).

    ``algorithms`` maps TPM_ALG_ID to the size of its digests in bytes, in the order of the log.
    """

    signature: str
    platform_class: int
    version_minor: int
    version_major: int
    errata: int
    uintn_size: int
    algorithms: tuple[tuple[int, int], ...]
    vendor_info: bytes


class EventLog(NamedTuple):
    """A parsed log.

    ``spec_id`` is None for a SHA-1 log. ``header`` is the event that holds it; it is not among ``events`` since it is
    never extended. ``size`` is where the last event ends and ``padding`` how many bytes of 0x00 or 0xFF follow.
    """

    spec_id: SpecId | None
    header: Event | None
    events: tuple[Event, ...]
    size: int
    padding: int

    @property
    def algorithms(self) -> tuple[int, ...]:
        """TPM_ALG_IDs of the banks that the log covers, in its order."""
        if self.spec_id is None:
            return (0x0004,)
        return tuple(algorithm for algorithm, _size in self.spec_id.algorithms)
