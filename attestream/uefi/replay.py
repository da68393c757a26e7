"""Replay of an event log: the PCR values that a TPM has if exactly the log's events were measured.

Extension: TPM 2.0 Part 1, section 17; start values and H-CRTM: PC Client Platform Firmware Profile 1.06, sections 3.3
and 10.4.5.3; boot aggregate: Linux ``security/integrity/ima/ima_crypto.c``, ``ima_calc_boot_aggregate_tfm``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from attestream.errors import MalformedError
from attestream.uefi.kinds import EFI_HCRTM_EVENT, NO_ACTION
from attestream.uefi.log import PCR_COUNT, EventLog

STARTUP_LOCALITY: Final = b"StartupLocality\0"
"""Signature of the EV_NO_ACTION event that tells at which locality TPM2_Startup was called."""
_LOCALITIES: Final = frozenset({0, 3, 4})
_HCRTM_LOCALITY: Final = 4
_DYNAMIC_LAUNCH: Final = range(17, 23)
BANKS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512", 0x0012: "sm3_256"}
"""TPM_ALG_ID -> name of the bank, as in ``pcrs`` of a replay."""
BANK_IDS: Final = {name: algorithm for algorithm, name in BANKS.items()}
"""Name of a bank -> TPM_ALG_ID."""
HASHERS: Final[dict[str, Callable[..., Any]]] = {
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    **({"sm3_256": partial(hashlib.new, "sm3")} if "sm3" in hashlib.algorithms_available else {}),
}
"""Name of a bank -> its hash."""


class Replay(NamedTuple):
    """PCR values for each bank that the log covers, and what was left out.

    ``pcrs`` has only PCRs that an event extends. ``locality`` is that of the start: the last byte of PCR 0's first
    value. ``unknown`` lists banks (TPM_ALG_ID) that the log has digests of and this library no hash for.
    """

    pcrs: dict[str, dict[int, bytes]]
    locality: int
    unknown: tuple[int, ...]


def replay(log: EventLog) -> Replay:
    """Return the PCR values that ``log`` leads to. EV_NO_ACTION events are never extended.

    :raises MalformedError: when the log contradicts itself about the startup locality.
    """
    locality = startup_locality(log)
    known = _known_banks(log)
    pcrs = {BANKS[algorithm]: _replay_bank(log, algorithm, hasher, locality) for algorithm, hasher in known}
    unknown = tuple(algorithm for algorithm in log.algorithms if BANKS.get(algorithm) not in HASHERS)
    return Replay(pcrs, locality, unknown)


def replay_bank(log: EventLog, bank: str) -> dict[int, bytes] | None:
    """Return what :func:`replay` says of one bank; None when the log does not cover it or its hash is not known.

    :raises MalformedError: when the log contradicts itself about the startup locality.
    """
    locality = startup_locality(log)
    algorithm = BANK_IDS.get(bank)
    if algorithm is None or algorithm not in log.algorithms or bank not in HASHERS:
        return None
    return _replay_bank(log, algorithm, HASHERS[bank], locality)


def _known_banks(log: EventLog) -> list[tuple[int, Callable[..., Any]]]:
    return [(algorithm, HASHERS[BANKS[algorithm]]) for algorithm in log.algorithms if BANKS.get(algorithm) in HASHERS]


def _replay_bank(
    log: EventLog, algorithm: int, hasher: Callable[..., Any], locality: int, *, informative: bool = False
) -> dict[int, bytes]:
    size = hasher().digest_size
    start = {0: bytes(size - 1) + bytes([locality])}
    zeros = bytes(size)
    values: dict[int, bytes] = {}
    for event in log.events:
        pcr = event.pcr
        if event.kind == NO_ACTION and not (informative and pcr < PCR_COUNT):
            continue
        for found, digest in event.digests:
            if found == algorithm:
                before = values.get(pcr) or start.get(pcr) or zeros
                values[pcr] = hasher(before + digest).digest()
    return values


def replay_as_printed(log: EventLog) -> dict[str, dict[int, bytes]]:
    """Return the PCR values that tpm2-tools 5.4 prints for ``log``: every event extended, from zero.

    They are wrong for a TPM when the log has EV_NO_ACTION events besides its header, or a startup locality.
    """
    pcrs: dict[str, dict[int, bytes]] = {}
    for algorithm, hasher in _known_banks(log):
        pcrs[BANKS[algorithm]] = _replay_bank(log, algorithm, hasher, 0, informative=True)
    return pcrs


def digest_in(bank: str, data: bytes) -> bytes:
    """Return the digest of ``data`` with the hash of the bank called ``bank``, which is one of a replay's."""
    return bytes(HASHERS[bank](data).digest())


def startup_locality(log: EventLog) -> int:
    """Return the locality of TPM2_Startup: from the StartupLocality event, else 4 after an H-CRTM, else 0.

    :raises MalformedError: when it is not 0, 3 or 4, is told twice, or after PCR 0 was extended.
    """
    found: int | None = None
    hcrtm = False
    extended = False
    for event in log.events:
        if event.kind == NO_ACTION:
            data = event.data
            if not data.startswith(STARTUP_LOCALITY):
                continue
            place = f"event {event.number} of the event log, at byte {event.offset},"
            if len(data) != len(STARTUP_LOCALITY) + 1 or data[-1] not in _LOCALITIES:
                raise MalformedError(f"{place} has no startup locality of 0, 3 or 4")
            if found is not None or extended:
                raise MalformedError(f"{place} tells the startup locality too late or twice")
            found = data[-1]
        elif event.pcr == 0:
            if event.kind == EFI_HCRTM_EVENT:
                hcrtm = True
            else:
                extended = True
    if found is not None:
        return found
    return _HCRTM_LOCALITY if hcrtm else 0


def reset_value(pcr: int, size: int) -> bytes:
    """Return what ``pcr`` holds before anything is extended: ones in those of dynamic launches, zeros in the others.

    Source: PC Client Platform TPM Profile 1.06, section 4.6.2.
    """
    return (b"\xff" if pcr in _DYNAMIC_LAUNCH else b"\0") * size


def differing_pcrs(values: Mapping[int, bytes], quoted: Mapping[int, bytes], wanted: Iterable[int]) -> tuple[int, ...]:
    """Return those PCRs of ``wanted`` whose value in ``values``, of one bank's replay, is not that in ``quoted``.

    A PCR without events in the log must have its reset value; one that is not quoted differs.
    """
    different: list[int] = []
    for pcr in wanted:
        actual = quoted.get(pcr)
        if actual is None or actual != (values.get(pcr) or reset_value(pcr, len(actual))):
            different.append(pcr)
    return tuple(different)


def boot_aggregates(pcrs: Mapping[str, Mapping[int, bytes]]) -> dict[str, list[bytes]]:
    """Return for each bank the two boot aggregates a Linux kernel may record: over PCRs 0-7 and over PCRs 0-9.

    The kernel reads 0-9 (since 5.8) except in the SHA-1 bank. A PCR that the log does not extend counts as zero.
    """
    found: dict[str, list[bytes]] = {}
    for bank, values in pcrs.items():
        aggregates: list[bytes] = []
        for count in (8, 10):
            hasher = HASHERS[bank]()
            for pcr in range(count):
                hasher.update(values.get(pcr) or bytes(hasher.digest_size))
            aggregates.append(hasher.digest())
        found[bank] = aggregates
    return found
