"""The TPM's own time: which order of two quotes is possible (TPM 2.0 Part 1, section 36; Part 2, section 10.11).

An attestation key outside the endorsement and platform hierarchies shows obfuscated counters: shifted by a constant of that
key, they keep their order.
"""

from __future__ import annotations

from attestream.appraisal.collector import Collector
from attestream.appraisal.state import AttesterState
from attestream.tpm.structures import ClockInfo


def went_back(clock: ClockInfo, state: AttesterState) -> str:
    """Return the code of the finding when ``clock`` lies before what ``state`` has seen; empty when time went on.

    After a reset or a restart the clock itself says nothing: it may fall back to the last value that the TPM had stored.
    """
    if clock.reset_count != state.reset_count:
        return "quote.reset-count" if clock.reset_count < state.reset_count else ""
    if clock.restart_count != state.restart_count:
        return "quote.restart-count" if clock.restart_count < state.restart_count else ""
    return "quote.clock" if clock.clock < state.clock else ""


def restarted(clock: ClockInfo, state: AttesterState) -> bool:
    """Return whether PCRs and log may have started over since ``state``.

    A TPM Restart (an orderly shutdown to hibernation, then a start-up that clears) resets PCRs too, but raises only the
    restart count. A resume raises it as well and keeps the PCRs; the two can not be told apart, so both start over.
    """
    return (clock.reset_count, clock.restart_count) != (state.reset_count, state.restart_count)


def note_boot(clock: ClockInfo, firmware: int, state: AttesterState, findings: Collector) -> None:
    """Add what is worth knowing about a boot to ``findings``; nothing of it ends trust."""
    if not state.policy:
        return
    if restarted(clock, state):
        findings.add("quote.rebooted")
        if not clock.safe:
            findings.add("quote.clock-unsafe")
    if firmware != state.firmware:
        findings.add("quote.firmware", "", f"The TPM's firmware version changed from {state.firmware:#x} to {firmware:#x}.")
