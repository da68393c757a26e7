"""Event logs of Intel TDX guests: the CCEL table.

The log is a crypto-agile one whose events name a measurement register instead of a PCR: 0 is MRTD, 1 to 4 are RTMR 0 to 3
(UEFI 2.10, section 38.4.1; Intel TDX Guest-Hypervisor Communication Interface 1.5, section 4.3). RTMRs are SHA-384 and
start at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestream.errors import MalformedError
from attestream.uefi.claims import BootClaims, draw_claims
from attestream.uefi.layout import TDX
from attestream.uefi.log import EventLog
from attestream.uefi.replay import replay

RTMR_COUNT: Final = 4
RTMR_BANK: Final = "sha384"
_RTMR_SIZE: Final = 48
_FIRST_RTMR: Final = 1


def replay_rtmrs(log: EventLog) -> tuple[bytes, ...]:
    """Return the values of RTMR 0 to 3 that ``log`` leads to, 48 bytes each.

    :raises MalformedError: when the log has no SHA-384 digests, or an event of a register that a guest can not extend.
    """
    values = replay(log).pcrs.get(RTMR_BANK)
    if values is None:
        raise MalformedError("the event log has no SHA-384 digests: it is not one of a TDX guest")
    strange = [register for register in values if not _FIRST_RTMR <= register < _FIRST_RTMR + RTMR_COUNT]
    if strange:
        raise MalformedError(f"the event log extends register {strange[0]}; a TDX guest has 1 to {RTMR_COUNT}")
    return tuple(values.get(_FIRST_RTMR + rtmr, bytes(_RTMR_SIZE)) for rtmr in range(RTMR_COUNT))


def draw_rtmr_claims(log: EventLog, rtmrs: Mapping[int, bytes]) -> BootClaims:
    """Return the claims of ``log`` that the quoted values of ``rtmrs`` (RTMR number -> value) prove.

    The PCR indices in the claims are those of the log: the RTMR's number plus one.
    """
    return draw_claims(log, RTMR_BANK, {_FIRST_RTMR + rtmr: value for rtmr, value in rtmrs.items()}, layout=TDX)
