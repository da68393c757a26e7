"""IMA lists against runtime policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.ima.keys import KeyRing, load_key
from attestream.interop.ima_list import ListState, Setting, appraise_list
from attestream.interop.runtime_policy import ConvertedPolicy, convert_runtime_policy
from attestream.interop.severity import SeverityPolicy
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    try:
        setting = Setting(
            read_policy(inputs.get("runtime_policy"), folder),
            _keys(inputs.get("keyring_files"), folder),
            inputs.get("pcr_hash_alg") or "sha1",
            inputs.get("boot_aggregates"),
            violations_fail=bool(inputs.get("config.verifier.ignore_tomtou_errors")),
        )
        pcr = inputs.get("pcr10")
        quoted = None if pcr is None else bytes.fromhex(pcr)
        state = ListState() if inputs.get("with_agent_state") else None
        outcome = appraise_list(read_lines(inputs["log"], folder), quoted, setting, state)
    except AttestreamError:
        return Outcome("fail")
    ids = list(outcome.event_ids)
    return Outcome(
        "fail" if ids else "pass",
        ids,
        {
            "recoverable": True,
            "highest": SeverityPolicy().highest(ids),
            "running_hash": outcome.value.hex(),
            "next_ima_ml_entry": outcome.state.next_entry if state is not None else None,
        },
    )


def read_lines(name: str, folder: Path) -> list[str]:
    # With line ends as they are: a carriage return belongs to the path.
    return (folder / name).read_bytes().decode("utf-8").split("\n")


def read_policy(name: str | None, folder: Path) -> ConvertedPolicy | None:
    if name is None:
        return None
    # As the incumbent applies a policy that it has stored, not as it should have been refused.
    return convert_runtime_policy(json.loads((folder / name).read_text("utf-8")), strict=False)


def _keys(names: Any, folder: Path) -> KeyRing | None:
    if names is None:
        return None
    return KeyRing() if names == "empty" else KeyRing(load_key((folder / name).read_bytes()) for name in names)
