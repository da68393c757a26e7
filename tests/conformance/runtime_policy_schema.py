"""The form of runtime policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attestream.errors import PolicyError
from attestream.interop.runtime_schema import check_runtime_policy
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    policy = json.loads((folder / case["inputs"]["policy"]).read_text(encoding="utf-8"))
    try:
        check_runtime_policy(policy)
    except PolicyError:
        return Outcome("fail")
    return Outcome("pass")
