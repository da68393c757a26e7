"""The incumbent's checks of a boot log: which PCRs it replays, what it calls a failure, and in which order it tells."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from attestream.errors import PolicyError
from attestream.interop.boot_log import BootLogReading
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy, failed, judge

REPLAYED: Final = frozenset({*range(10), *range(11, 16)})
"""PCRs that are compared with the log unless the policy names fewer."""
INVALID_POLICY: Final = "pcr_validation.invalid_mb_policy"
MISSING_PCRS: Final = "measured_boot.missing_pcrs"


class BootPcrs(NamedTuple):
    """How quoted PCRs compare with the log."""

    event_ids: tuple[str, ...]
    """``pcr_validation`` first, then ``measured_boot``."""
    compared: frozenset[int]
    """PCRs that are dealt with; without a log none."""


class BootVerdict(NamedTuple):
    """What the policy says."""

    event_ids: tuple[str, ...]
    reason: str = ""


def demands_anything(reference_state: str | None) -> bool:
    """Return whether the text of a reference state asks for any check: nothing, ``{}`` and what is no JSON do not."""
    try:
        return reference_state is not None and bool(json.loads(reference_state))
    except (ValueError, RecursionError):
        return False


def reference_state_event_ids(reference_state: str | None) -> tuple[str, ...]:
    """Return the failure for the text of a reference state that is no JSON, or is ``null``."""
    if not reference_state:
        return ()
    try:
        valid = json.loads(reference_state) is not None
    except (ValueError, RecursionError):
        valid = False
    return () if valid else (INVALID_POLICY,)


def policy_named(name: str, policies: Mapping[str, BootPolicy] = BUILT_IN) -> BootPolicy:
    """Return the policy called ``name``; the one that rejects all when there is none."""
    return policies.get(name, BUILT_IN["reject-all"])


def compare_pcrs(
    reading: BootLogReading, quoted: Mapping[int, bytes], policy: BootPolicy, allowed: Mapping[int, Collection[str]]
) -> BootPcrs:
    """Compare the quoted PCRs that the policy is about with the log, and with the ``allowed`` values in hexadecimal."""
    wanted = sorted((REPLAYED & policy.pcrs if policy.pcrs else REPLAYED) & quoted.keys())
    if not reading.dictionary:
        return BootPcrs(tuple(f"pcr_validation.unused_pcr_{pcr}" for pcr in wanted), frozenset())
    # A PCR without events counts as zero, and zeros in front of a value do not count.
    other = [pcr for pcr in wanted if quoted[pcr].lstrip(b"\0") != reading.pcrs.get(pcr, b"").lstrip(b"\0")]
    forbidden = [pcr for pcr in wanted if pcr in allowed and quoted[pcr].hex() not in allowed[pcr]]
    return BootPcrs(
        (
            *(f"pcr_validation.invalid_pcr_{pcr}" for pcr in forbidden),
            *(f"measured_boot.invalid_pcr_{pcr}" for pcr in other),
        ),
        frozenset(wanted),
    )


def evaluate(
    policy: BootPolicy, reference_state: str | None, dictionary: Mapping[str, Any], quoted: Collection[int]
) -> BootVerdict:
    """Return what ``policy`` says about a log, in the dictionary form, when the PCRs ``quoted`` were quoted."""
    if reference_state is None or not demands_anything(reference_state):
        return BootVerdict(())
    if policy.pcrs - set(quoted):
        return BootVerdict((MISSING_PCRS,))
    try:
        reason = judge(policy.test_for(json.loads(reference_state)), dictionary).reason
    except PolicyError as error:
        reason = failed(error.message)
    return BootVerdict((f"measured_boot.policy_{policy.name}",), reason) if reason else BootVerdict(())
