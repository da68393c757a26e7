"""Several polls of one agent's IMA list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.interop.ima_list import ListState, Setting, appraise_list
from attestream.interop.severity import SeverityPolicy
from tests.conformance.ima import read_lines, read_policy
from tests.conformance.outcome import Outcome

BANK = "sha256"


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    lines = read_lines(inputs["log"], folder)
    setting = Setting(read_policy(inputs["runtime_policy"], folder), bank=BANK)
    state = ListState()
    steps: list[dict[str, object]] = []
    for step in inputs["steps"]:
        # What the PCR holds after so many entries: a list replays to it.
        quoted = appraise_list(lines[: step["pcr_count"]], None, Setting(bank=BANK)).value
        outcome = appraise_list(lines[step["first"] : step["last"]], quoted, setting, state)
        state = outcome.state
        ids = list(outcome.event_ids)
        steps.append(
            {
                "verdict": "fail" if ids else "pass",
                "event_ids": ids,
                "recoverable": True,
                "highest": SeverityPolicy().highest(ids),
                "next_ima_ml_entry": state.next_entry,
            }
        )
    good = all(step["verdict"] == "pass" for step in steps)
    return Outcome("pass" if good else "fail", None, {"steps": steps})
