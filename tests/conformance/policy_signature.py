"""Signatures of runtime policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.policy_signature import open_signed_policy, open_with_own_certificate, verify_detached
from tests.conformance.outcome import CannotRunError, Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = {name: (folder / file).read_bytes() if file else b"" for name, file in case["inputs"].items()}
    call = case["call"]
    try:
        if "verify_dsse_envelope" in call and not inputs.get("key"):
            open_with_own_certificate(inputs["envelope"])
        elif "verify_runtime_policy" in call or "verify_dsse_envelope" in call:
            open_signed_policy(inputs["envelope"], inputs.get("key", b""))
        elif "verify_signature" in call:
            return Outcome("pass" if verify_detached(inputs["key"], inputs["signature"], inputs["body"]) else "fail")
        else:
            raise CannotRunError(f"the call {call!r} is not known")
    except AttestreamError:
        return Outcome("fail")
    return Outcome("pass")
