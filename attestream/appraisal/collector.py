"""Gathers the findings of one appraisal within a bound: an agent decides how much can be wrong with it."""

from __future__ import annotations

from typing import Final

from attestream.appraisal.findings import FAILURE, FINDINGS, WARNING, finding
from schemas.events import Finding

MAX_FINDINGS: Final = 64
"""Findings of one appraisal, before the one that says how many more there were."""


class Collector:
    """Gathers the findings of one appraisal, at most :data:`MAX_FINDINGS` and a last one for the rest."""

    __slots__ = ("_findings", "_more", "failed")

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._more = 0
        self.failed = False
        """Whether a finding so far ends trust."""

    def add(self, code: str, culprit: str = "", message: str = "") -> None:
        """Add the finding ``code``; arguments as of :func:`finding`."""
        self.failed = self.failed or FINDINGS[code].severity == FAILURE
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(finding(code, culprit, message))
        else:
            self._more += 1

    def all(self) -> tuple[Finding, ...]:
        """Return what was gathered. The last one fails when any did, so that the list speaks for the verdict."""
        if not self._more:
            return tuple(self._findings)
        message = f"{self._more} more findings are not listed."
        severity = FAILURE if self.failed else WARNING
        return (*self._findings, finding("runtime.more-findings", "", message, severity=severity))
