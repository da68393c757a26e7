"""Acceptance of algorithms by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.interop.algorithms import is_accepted
from tests.conformance.outcome import CannotRunError, Outcome


def run(case: Any, folder: Path) -> Outcome:
    if "is_accepted" not in case["call"]:
        raise CannotRunError(f"unknown call {case['call']}")
    inputs = case["inputs"]
    return Outcome("pass" if is_accepted(inputs["algorithm"], inputs["accepted"]) else "fail")
