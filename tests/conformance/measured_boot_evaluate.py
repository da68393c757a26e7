"""Boot logs judged by a policy and a reference state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attestream.interop.boot_log import read_boot_log
from attestream.interop.boot_policy import evaluate, policy_named
from attestream.interop.severity import SeverityPolicy
from tests.conformance.outcome import Outcome

SHOWN = 400
"""Characters of a reason that a case has: its last ones."""
_SEVERAL = re.compile(r"\{'[^']*', |\), \(")


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    reading = read_boot_log((folder / inputs["log"]).read_bytes(), "sha256")
    reference = (folder / inputs["refstate"]).read_text(encoding="utf-8")
    verdict = evaluate(policy_named(inputs["policy_name"]), reference, reading.dictionary, inputs["pcrs_in_quote"])
    event_ids = [*reading.event_ids, *verdict.event_ids]
    values: dict[str, object] = {"recoverable": True, "highest": SeverityPolicy().highest(event_ids)}
    if not _SEVERAL.search(verdict.reason):
        values["reason"] = verdict.reason[-SHOWN:]
    # Else the incumbent's text has the members of a set in the order of that run's hash seed: no text to compare with.
    return Outcome("fail" if event_ids else "pass", event_ids, values)
