"""The incumbent's checks of a boot log: which PCRs it replays, and when a reference state asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from attestream.appraisal.findings import finding
from attestream.errors import PolicyError
from attestream.interop.boot_log import BootLogReading
from attestream.interop.events import event_ids
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy, failed, judge
from schemas.events import Finding

REPLAYED: Final = frozenset({*range(10), *range(11, 16)})
"""PCRs that are compared with the log unless the policy names fewer."""


def policy_named(name: str, policies: Mapping[str, BootPolicy] = BUILT_IN) -> BootPolicy:
    """Return the policy called ``name``; the one that rejects all when there is none."""
    return policies.get(name, BUILT_IN["reject-all"])


@dataclass(frozen=True, slots=True)
class BootLogCheck:
    """A boot log, a policy and the text of a reference state: the ``boot`` of a request. It answers with event ids.

    A reference state of None, of no text or of an empty JSON value asks for no check but that the log can be read.
    """

    reading: BootLogReading
    policy: BootPolicy
    reference_state: str | None
    allowed: Mapping[int, Collection[str]] = field(default_factory=dict)
    """PCR -> values in hexadecimal, of the policy about single PCRs: it holds for PCRs of the boot log too."""

    @property
    def demanding(self) -> bool:
        """Whether the reference state asks for a check. One that is no JSON asks for none; it is a finding itself."""
        try:
            return bool(json.loads(self.reference_state or "null"))
        except (ValueError, RecursionError):
            return False

    def parse(self) -> Sequence[str]:
        """Return why the log can not be read."""
        return self.reading.event_ids

    def compare(self, pcrs: Mapping[int, bytes]) -> tuple[Sequence[str], Collection[int]]:
        """Compare the log with the quoted PCRs that the policy is about; without a log they count as not dealt with."""
        wanted = self._wanted(pcrs)
        if not self.reading.dictionary:
            return self._told("boot.log-missing", wanted), ()
        forbidden = [pcr for pcr in wanted if pcr in self.allowed and pcrs[pcr].hex() not in self.allowed[pcr]]
        # A PCR without events counts as zero, and zeros in front of a value do not count.
        logged = self.reading.pcrs
        other = [pcr for pcr in wanted if pcrs[pcr].lstrip(b"\0") != logged.get(pcr, b"").lstrip(b"\0")]
        return [*self._told("boot.pcr-value", forbidden), *self._told("boot.pcr-mismatch", other)], wanted

    def evaluate(self, pcrs: Mapping[int, bytes], *, parsed: bool) -> Sequence[str]:
        """Judge the log by the policy, if it could be parsed; the reference state is looked at in any case."""
        if self.reference_state and not self._is_json():
            return self._named(finding("boot.reference-invalid"))
        judged = self.judge(self._wanted(pcrs) if self.reading.dictionary else ()) if parsed else []
        return self._named(*judged)

    def judge(self, compared: Collection[int]) -> Sequence[Finding]:
        """Return what the policy says when the PCRs ``compared`` were. The message of a finding is the policy's reason."""
        if not self.demanding:
            return []
        if lacking := sorted(self.policy.pcrs - set(compared)):
            return [finding("boot.pcr-uncovered", f"PCR {lacking[0]}")]
        try:
            test = self.policy.test_for(json.loads(self.reference_state or "null"))
            reason = judge(test, self.reading.dictionary).reason
        except PolicyError as error:
            reason = failed(error.message)
        return [finding("boot.policy", "", reason)] if reason else []

    def _named(self, *found: Finding) -> list[str]:
        return event_ids(found, policy_name=self.policy.name)

    def _told(self, code: str, pcrs: Iterable[int]) -> list[str]:
        return self._named(*(finding(code, f"PCR {pcr}") for pcr in pcrs))

    def _wanted(self, pcrs: Mapping[int, bytes]) -> list[int]:
        relevant = REPLAYED & self.policy.pcrs if self.policy.pcrs else REPLAYED
        return sorted(relevant & pcrs.keys()) if self.demanding else []

    def _is_json(self) -> bool:
        """Return whether the reference state is JSON and not ``null``."""
        try:
            return json.loads(self.reference_state or "") is not None
        except (ValueError, RecursionError):
            return False
