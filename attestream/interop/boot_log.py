"""What the incumbent's verifier draws from a boot log before any policy sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from attestream.errors import MalformedError
from attestream.uefi.dictionary import describe
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import boot_aggregates, replay_as_printed

UNREADABLE: Final = "measured_boot.parser.tpm2_eventlog.error"
NO_SUCH_BANK: Final = "measured_boot.parser.invalid_pcrs_hashes"


@dataclass(frozen=True, slots=True)
class BootLogReading:
    """A read boot log, or why it could not be read.

    ``event_ids`` is empty when it could. ``pcrs`` maps PCR -> value in the bank asked for; ``aggregates`` maps each bank
    of the log to its boot aggregates over PCRs 0-7 and 0-9; ``dictionary`` is the form that boot policies are run on.
    """

    event_ids: tuple[str, ...]
    pcrs: dict[int, bytes] = field(default_factory=dict)
    aggregates: dict[str, list[bytes]] = field(default_factory=dict)
    dictionary: dict[str, Any] = field(default_factory=dict)


def read_boot_log(log: bytes, bank: str) -> BootLogReading:
    """Return what ``log`` says in ``bank``. Without a log there is nothing to be wrong with it.

    PCR values are those that tpm2-tools 5.4 computes, which are not a TPM's when the log tells of a startup locality.
    """
    if not log:
        return BootLogReading(())
    try:
        parsed = parse_log(log, padded=False)
        dictionary = describe(parsed)
    except MalformedError:
        return BootLogReading((UNREADABLE,))
    values = {name: pcrs for name, pcrs in replay_as_printed(parsed).items() if pcrs}
    if bank not in values:
        return BootLogReading((NO_SUCH_BANK,))
    return BootLogReading((), values[bank], boot_aggregates(values), dictionary)
