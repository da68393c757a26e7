"""Boot logs judged by a policy and a reference state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attestream.interop.boot_log import read_boot_log
from attestream.interop.boot_policy import BootLogCheck, policy_named
from attestream.interop.events import event_ids, is_recoverable
from attestream.interop.severity import SeverityPolicy
from tests.conformance.outcome import Outcome

SHOWN = 400
"""Characters of a reason that a case has: its last ones."""
_SEVERAL = re.compile(r"\{'[^']*', |\), \(")


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    reading = read_boot_log((folder / inputs["log"]).read_bytes(), "sha256")
    reference = (folder / inputs["refstate"]).read_text(encoding="utf-8")
    check = BootLogCheck(reading, policy_named(inputs["policy_name"]), reference)
    findings = check.judge(inputs["pcrs_in_quote"])
    ids = [*check.parse(), *event_ids(findings, policy_name=check.policy.name)]
    values: dict[str, object] = {"recoverable": all(map(is_recoverable, ids)), "highest": SeverityPolicy().highest(ids)}
    reason = "".join(found.message for found in findings if found.code == "boot.policy")
    if not _SEVERAL.search(reason):
        values["reason"] = reason[-SHOWN:]
    # Else the incumbent's text has the members of a set in the order of that run's hash seed: no text to compare with.
    return Outcome("fail" if ids else "pass", ids, values)
