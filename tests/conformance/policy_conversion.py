"""Conversion of older formats to runtime policies, and runtime policies from measurement lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attestream.errors import PolicyError
from attestream.interop.excludes import read_exclude_list
from attestream.interop.runtime_conversion import Converted, convert_allowlist, policy_from_measurements, update_policy
from attestream.interop.runtime_schema import check_runtime_policy
from tests.conformance.outcome import CannotRunError, Outcome


def run(case: Any, folder: Path) -> Outcome:
    try:
        made = _made(case, folder).policy
    except (PolicyError, FileNotFoundError):
        return Outcome("fail", values={"rc": 1, "policy": None})
    made["meta"].pop("timestamp", None)
    values = {
        "rc": 0,
        "policy": _name(made, case["expected"].get("policy"), folder),
        "schema_valid": _valid(made),
        "n_digests": len(made["digests"]),
        "log_hash_alg": made["ima"].get("log_hash_alg"),
        "digests": made["digests"],
    }
    return Outcome("pass", values=values)


def _made(case: Any, folder: Path) -> Converted:
    inputs, call = case["inputs"], case["call"]
    if "log" in inputs:
        return policy_from_measurements((folder / inputs["log"]).read_text(encoding="utf-8"))
    text = (folder / inputs["input"]).read_text(encoding="utf-8")
    if "convert_legacy_allowlist" in call:
        policy = convert_allowlist(text).policy
    elif "update_runtime_policy" in call:
        policy = json.loads(text)
    else:
        raise CannotRunError(f"the call {call!r} is not known")
    listed = inputs.get("excludelist")
    excludes = read_exclude_list((folder / listed).read_text(encoding="utf-8")) if listed else []
    keys = [(name, (folder / name).read_bytes()) for name in inputs.get("verification_keys") or ()]
    return update_policy(policy, excludes=excludes, keys=keys)


def _valid(policy: dict[str, Any]) -> bool:
    try:
        check_runtime_policy(policy)
    except PolicyError:
        return False
    return True


def _name(made: dict[str, Any], wanted: object, folder: Path) -> object:
    """Return the name of the file that holds what was made: cases name a file, not its content."""
    if isinstance(wanted, str) and json.loads((folder / wanted).read_text(encoding="utf-8")) == made:
        return wanted
    return made
