"""Tests of what events measure: digests, and the events whose content the specification fixes.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1 (table of event types) and section 3.3.4 (PCR usage).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attestream.errors import PolicyError
from attestream.uefi.policy.logic import And, Evaluation, Or, Test, shown
from attestream.uefi.policy.structure import NO_DICT, FieldTest
from attestream.uefi.policy.values import StringEqual
from attestream.uefi.replay import BANKS, digest_in

Digest = Mapping[str, str]
"""Bank -> digest in hexadecimal, without 0x."""

_SEPARATORS: Final = ("00000000", "FFFFFFFF")
_ACTIONS: Final = {
    1: ("Entering ROM Based Setup",),
    4: ("Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option"),
    5: (
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Failure",
        "Exit Boot Services Returned with Success",
    ),
    6: ("UEFI Debug Mode",),
}
_HASHED: Final = tuple(bank for bank in BANKS.values() if bank != "sm3_256" or "sm3" in hashlib.algorithms_available)


class DigestsTest(Test):
    """Passes an event of which a digest, of whatever bank, is among the good ones."""

    __slots__ = ("good_digests",)

    def __init__(self, good_digests_list: Iterable[Digest]) -> None:
        self.good_digests: dict[str, set[str]] = {}
        for digest in good_digests_list:
            if not isinstance(digest, Mapping):
                raise PolicyError(f"{digest!r} is not a digest: a mapping of a bank to hexadecimal text")
            for bank, value in digest.items():
                self.good_digests.setdefault(bank, set()).add(value)

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return what is wrong with the event's digests, or that none is good."""
        if not isinstance(subject, dict):
            return NO_DICT
        if "Digests" not in subject:
            return "has no Digests"
        if not isinstance(subject["Digests"], list):
            return "Digests is not a list"
        for index, digest in enumerate(subject["Digests"]):
            if reason := _malformed(index, digest):
                return reason
            if digest["Digest"] in self.good_digests.get(digest["AlgorithmId"], ()):
                return ""
        return f"has no digest approved by {shown(self.good_digests)}"


class DigestTest(DigestsTest):
    """Passes an event that has one of the digests of one measured thing: one for each bank."""

    __slots__ = ()

    def __init__(self, good_digest: Digest) -> None:
        super().__init__([good_digest])


class EvSeperatorTest(Or):
    """Passes an EV_SEPARATOR event: of 00000000 or FFFFFFFF, with the digest of just that."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(*(_measures(value, bytes.fromhex(value)) for value in _SEPARATORS))


class EvEfiActionTest(Test):
    """Passes an EV_EFI_ACTION event with a text that the specification has for PCR ``pcr``, and the digest of that text."""

    __slots__ = ("pcr", "test")

    def __init__(self, pcr: int) -> None:
        self.pcr = pcr
        actions = _ACTIONS.get(pcr)
        self.test = Or(*(_measures(action, action.encode("ascii")) for action in actions)) if actions else None

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return that there is no such action, or none in this PCR."""
        if self.test is None:
            return f"No EV_EFI_ACTION event for {self.pcr} is expected in the spec"
        return self.test.why_not(evaluation, subject)


def _measures(text: str, data: bytes) -> Test:
    return And(FieldTest("Event", StringEqual(text)), DigestTest({bank: digest_in(bank, data).hex() for bank in _HASHED}))


def _malformed(index: int, digest: Any) -> str:
    if not isinstance(digest, dict):
        return f"Digests[{index}] is {digest!r}, not a dict"
    for name in ("AlgorithmId", "Digest"):
        if name not in digest:
            return f"digest {index} has no {name}"
        if not isinstance(digest[name], str):
            return f"Digests[{index}].{name} is {digest[name]!r}, not a str"
    return ""
