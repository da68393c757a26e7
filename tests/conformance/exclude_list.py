"""Exclude lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.errors import PolicyError
from attestream.interop.excludes import compile_excludes
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    try:
        combined = compile_excludes(case["inputs"]["excludes"])
    except PolicyError:
        return Outcome("fail", values={"combined": None})
    return Outcome("pass", values={"combined": combined})
