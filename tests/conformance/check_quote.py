"""Quotes against policies: single PCRs, the bound key in PCR 16, the IMA log, and the TPM's clock."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import compile_policy
from attestream.appraisal.runtime import appraise_log
from attestream.appraisal.state import fresh
from attestream.errors import AttestreamError
from attestream.interop.appraisal import LogCheck, appraise_quote, request_of
from attestream.interop.clock import UNSEEN
from attestream.interop.events import is_recoverable
from attestream.interop.keys import read_public
from attestream.interop.quotes import parse_quote_text
from attestream.interop.severity import SeverityPolicy
from attestream.interop.tpm_policy import read_tpm_policy
from attestream.tpm.structures import ClockInfo
from schemas.attestation import ImaDelta
from schemas.events import Finding
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
    text = inputs.get("ima_measurement_list")
    if text is None:
        return None
    lines = [line for line in text.split("\n") if line]
    policy = _policy(inputs.get("runtime_policy"))
    delta = ImaDelta(ima_first=0, count=len(lines), data="".join(f"{line}\n" for line in lines).encode(), ascii=True)
    bank = inputs.get("hash_alg") or "sha256"

    def check(quoted: bytes) -> Sequence[Finding]:
        findings = Collector()
        log = appraise_log(delta, quoted, bank=bank, policy=policy, state=fresh(), rebooted=False, findings=findings)
        proven.append(log.entries)
        return findings.all()

    return check


def _policy(document: Any) -> Any:
    names = {40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}
    digests = {
        path: [f"{names[len(value)]}:{value}" for value in values]
        for path, values in (document or {}).get("digests", {}).items()
    }
    excludes = [f"(?:{expression}).*" for expression in (document or {}).get("excludes", [])]
    native = {"format": "attestream-policy/1", "bank": "sha256", "runtime": {"digests": digests, "excludes": excludes}}
    return compile_policy(json.dumps(native).encode()).runtime
