"""How severe findings are, by policy.

Rules are read in order, and the first whose expression matches the whole code of a finding decides. No rule can change what
protects the appraisal itself: findings about the protocol keep their severity, and findings on which the proof rests stay
failures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import re2

from attestream.appraisal.findings import FAILURE, FINDINGS, INFO, WARNING
from attestream.errors import PolicyError

SEVERITIES: Final = (INFO, WARNING, FAILURE)
"""From the least to the most severe."""

MAX_RULES: Final = 256
MAX_EXPRESSION: Final = 256
"""Characters of one expression."""

PROTOCOL: Final = frozenset(
    {
        "freshness.unanswered",
        "freshness.nonce-invalid",
        "freshness.stale",
        "freshness.future",
        "freshness.replayed",
        "quote.values-missing",
        "runtime.log-offset",
        "runtime.more-findings",
    }
)
"""Findings that say nothing about the machine: evidence that is asked for again. Their severity is fixed."""

PROOF: Final = frozenset(
    {
        "boot.log-missing",
        "boot.log-malformed",
        "boot.log-bank",
        "boot.pcr-mismatch",
        "boot.pcr-uncovered",
        "boot.event-unproven",
        "boot.reference-invalid",
        "runtime.log-missing",
        "runtime.log-empty",
        "runtime.log-count",
        "runtime.log-too-long",
        "runtime.log-mismatch",
        "runtime.no-progress",
        "runtime.entry-malformed",
        "runtime.entry-digest",
        "runtime.entry-pcr",
        "runtime.buffer-altered",
        "runtime.template-unknown",
    }
)
"""Failures after which a log proves nothing, besides all failures of identity and quote. They stay failures."""


def compile_severities(rules: Any, place: str = "severities") -> dict[str, str]:
    """Return the codes whose severity ``rules`` change, with their new severity.

    :param rules: list of ``{"code": <RE2 expression>, "severity": "info" | "warning" | "failure"}``.
    :raises PolicyError: when a rule is not valid, or can change nothing: a misspelt code would silently protect nothing.
    """
    if not isinstance(rules, list) or len(rules) > MAX_RULES:
        raise PolicyError(f"{place}: must be a list of at most {MAX_RULES} rules")
    changed: dict[str, str] = {}
    decided: set[str] = set()
    for number, rule in enumerate(rules):
        expression, severity = _rule(rule, f"{place}[{number}]")
        matched = {code for code in FINDINGS if expression.fullmatch(code)}
        allowed = {code for code in matched if _may_become(code, severity)}
        if not allowed:
            reason = "matches only findings whose severity is fixed" if matched else "matches no code of a finding"
            raise PolicyError(f"{place}[{number}]: {reason}")
        changed.update({code: severity for code in allowed - decided if severity != FINDINGS[code].severity})
        decided |= matched
    return changed


def is_fixed(code: str) -> bool:
    """Return whether no policy can make the finding ``code`` less severe."""
    return not _may_become(code, INFO)


def _may_become(code: str, severity: str) -> bool:
    kind = FINDINGS[code]
    if code in PROTOCOL:
        return False
    guarded = kind.severity == FAILURE and (kind.layer in ("identity", "quote") or code in PROOF)
    return severity == FAILURE or not guarded


def _rule(rule: Any, place: str) -> tuple[Any, str]:
    if not isinstance(rule, Mapping) or rule.keys() != {"code", "severity"}:
        raise PolicyError(f"{place}: needs the keys `code` and `severity`, and no others")
    expression, severity = rule["code"], rule["severity"]
    if severity not in SEVERITIES:
        raise PolicyError(f"{place}.severity: must be one of {', '.join(SEVERITIES)}")
    if not isinstance(expression, str) or not 1 <= len(expression) <= MAX_EXPRESSION:
        raise PolicyError(f"{place}.code: must be a text of 1 to {MAX_EXPRESSION} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options), severity
    except (re2.error, UnicodeEncodeError) as error:
        raise PolicyError(f"{place}.code: is not an RE2 expression") from error
