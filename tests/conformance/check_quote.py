"""Quotes against policies: single PCRs, the bound key in PCR 16, the IMA log, and the TPM's clock."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.ima.keys import KeyRing
from attestream.interop.appraisal import LogCheck, appraise_quote, request_of
from attestream.interop.clock import UNSEEN
from attestream.interop.events import is_recoverable
from attestream.interop.ima_list import ListState, Setting, appraise_list
from attestream.interop.keys import read_public
from attestream.interop.quotes import parse_quote_text
from attestream.interop.runtime_policy import convert_runtime_policy
from attestream.interop.severity import SeverityPolicy
from attestream.interop.tpm_policy import read_tpm_policy
from attestream.tpm.structures import ClockInfo
from tests.conformance.outcome import Outcome
from tests.conformance.quote import clock_values


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    proven: list[int] = []
    try:
        request = request_of(
            inputs.get("mode") or "pull",
            bound_text=inputs.get("pubkey"),
            previous_clock=_clock(inputs.get("previous_clockinfo")),
        )
        request = dataclasses.replace(
            request,
            tpm_policy=read_tpm_policy(inputs.get("tpm_policy") or "{}"),
            log=_log_check(inputs, proven),
            log_wanted=inputs.get("runtime_policy") is not None,
        )
        ak, parts = read_public(base64.b64decode(inputs["ak_tpm"])), parse_quote_text(inputs["quote"])
        appraisal = appraise_quote(ak, parts, inputs["nonce"], inputs.get("hash_alg") or "sha256", request)
    except AttestreamError:
        return Outcome("fail", ["qoute_validation.invalid_quote"])
    ids = list(appraisal.event_ids)
    values: dict[str, object] = {
        "recoverable": all(map(is_recoverable, ids)),
        "highest": SeverityPolicy().highest(ids),
        "clockinfo_after": clock_values(appraisal.clock),
        "next_ima_ml_entry_after": proven[0] if proven else 0,
    }
    return Outcome("fail" if ids else "pass", ids, values)


def _clock(info: Any) -> ClockInfo:
    if info is None:
        return UNSEEN
    return ClockInfo(info["clock"], info["resetCount"], info["restartCount"], info["safe"] == 1)


def _log_check(inputs: Any, proven: list[int]) -> LogCheck | None:
    """Return the check of the case's IMA log, which notes the number of proven entries in ``proven``."""
    text, policy = inputs.get("ima_measurement_list"), inputs.get("runtime_policy")
    if text is None:
        return None
    converted = convert_runtime_policy(policy, strict=False) if policy is not None else None
    setting = Setting(converted, KeyRing(), inputs.get("hash_alg") or "sha256")

    def check(quoted: bytes) -> Sequence[str]:
        # One-shot evidence comes from an agent of which no state is kept.
        outcome = appraise_list(text.split("\n"), quoted, setting, None if inputs.get("mode") == "evidence" else ListState())
        proven.append(outcome.state.next_entry)
        return outcome.event_ids

    return check
