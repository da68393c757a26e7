"""Gathers the findings of one appraisal within a bound: an agent decides how much can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestream.appraisal.findings import FAILURE, FINDINGS, finding
from schemas.events import Finding

MAX_FINDINGS: Final = 64
"""Findings of one appraisal, before the one that says how many more there were."""


class Collector:
    """Gathers findings; those that end trust are listed first and are never crowded out by the others.

    :param severities: code -> severity where a policy changes it, see :mod:`attestream.appraisal.severity`.
    """

    __slots__ = ("_count", "_failures", "_others", "_severities")

    def __init__(self, severities: Mapping[str, str] | None = None) -> None:
        self._severities = severities or {}
        self._failures: list[Finding] = []
        self._others: list[Finding] = []
        self._count = 0

    @property
    def failed(self) -> bool:
        """Whether a finding so far ends trust."""
        return bool(self._failures)

    def add(self, code: str, culprit: str = "", message: str = "") -> None:
        """Add the finding ``code``; arguments as of :func:`attestream.appraisal.findings.finding`."""
        self._count += 1
        severity = self._severities.get(code) or FINDINGS[code].severity
        kept = self._failures if severity == FAILURE else self._others
        if len(kept) < MAX_FINDINGS:
            kept.append(finding(code, culprit, message, severity))

    def mark(self) -> tuple[int, int, int]:
        """Return a mark to :meth:`rewind` to."""
        return len(self._failures), len(self._others), self._count

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Drop what was added since ``mark``."""
        failures, others, self._count = mark
        del self._failures[failures:], self._others[others:]

    def of_layer(self, layer: str) -> bool:
        """Return whether there is a finding of ``layer``."""
        return any(found.layer == layer for found in (*self._failures, *self._others))

    def all(self) -> tuple[Finding, ...]:
        """Return at most :data:`MAX_FINDINGS` findings, and one more that counts the rest when there is a rest."""
        if not self._count:
            return ()
        listed = (*self._failures, *self._others)[:MAX_FINDINGS]
        more = self._count - len(listed)
        return (*listed, finding("runtime.more-findings", "", f"{more} more findings are not listed.")) if more else listed
