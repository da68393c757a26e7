"""Reference states made from boot logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.uefi.policy.create import create_reference_state
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    log = (folder / inputs["log"]).read_bytes()
    try:
        made = create_reference_state(log, without_secureboot=inputs["without_secureboot"])
    except AttestreamError:
        return Outcome("fail", values={"refstate": None, "rc": 1})
    return Outcome("pass", values={"refstate": _name(made, case["expected"].get("refstate"), folder), "rc": 0})


def _name(made: dict[str, object], wanted: object, folder: Path) -> object:
    """Return the name of the file that holds what was made: cases name a file, not its content."""
    if isinstance(wanted, str) and json.loads((folder / wanted).read_text(encoding="utf-8")) == made:
        return wanted
    return made
