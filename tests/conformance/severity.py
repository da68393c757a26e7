"""Severity labels of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.errors import PolicyError
from attestream.interop.severity import SeverityPolicy
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    try:
        policy = SeverityPolicy(inputs.get("severity_labels") or (), inputs.get("severity_policy") or ())
    except PolicyError:
        return Outcome("fail")
    severity = policy.of(inputs["event_id"])
    values: dict[str, object] = {"label": severity.label, "severity": severity.level, "is_max": severity.highest}
    if not severity.matched:
        values["rule"] = "none matched"
    return Outcome("pass", values=values)
