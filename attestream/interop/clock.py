"""The incumbent's rule for the TPM's clock, which is stricter than the TPM (:mod:`attestream.appraisal.clock` is ours).

The restart count may not go down even when the reset count rose, although a TPM Reset sets it to 0 (TPM 2.0 Part 2, section
10.11); and the clock must be safe, although it is not after a power failure until it has caught up.
"""

from __future__ import annotations

from typing import Final

from attestream.tpm.structures import ClockInfo

UNSEEN: Final = ClockInfo(0, 0, 0, safe=True)
"""The clock of a TPM that was never seen."""


def refusal(previous: ClockInfo, current: ClockInfo) -> str:
    """Return the code of the finding when ``current`` may not follow ``previous``; empty when it may."""
    if current.reset_count < previous.reset_count:
        return "quote.reset-count"
    if current.restart_count < previous.restart_count:
        return "quote.restart-count"
    if not current.safe:
        return "quote.clock-unsafe"
    return "quote.clock" if not _started_over(previous, current) and current.clock <= previous.clock else ""


def remembered(previous: ClockInfo, current: ClockInfo) -> ClockInfo:
    """Return what is kept of two clocks that may follow one another: after both counts rose, the old one."""
    return previous if _started_over(previous, current) else current


def _started_over(previous: ClockInfo, current: ClockInfo) -> bool:
    return current.reset_count != previous.reset_count and current.restart_count != previous.restart_count
