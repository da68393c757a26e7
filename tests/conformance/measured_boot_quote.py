"""Quotes with a boot log, and a policy and reference state for it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.appraisal import appraise_quote, request_of
from attestream.interop.boot_log import read_boot_log
from attestream.interop.boot_policy import BootLogCheck, policy_named
from attestream.interop.events import is_recoverable
from attestream.interop.keys import read_public
from attestream.interop.quotes import parse_quote_text
from attestream.interop.severity import SeverityPolicy
from attestream.interop.tpm_policy import read_tpm_policy
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    bank = inputs.get("hash_alg") or "sha256"
    try:
        tpm_policy = read_tpm_policy(inputs.get("tpm_policy") or "{}")
        reading = read_boot_log(_log(inputs, folder), bank)
        policy = policy_named(inputs["mb_policy_name"])
        check = BootLogCheck(reading, policy, _reference(inputs, folder), tpm_policy.values)
        request = request_of(inputs.get("mode") or "pull", bound_text=inputs.get("pubkey"))
        request = dataclasses.replace(request, tpm_policy=tpm_policy, boot=check)
        ak, parts = read_public(base64.b64decode(inputs["ak_tpm"])), parse_quote_text(inputs["quote"])
        appraisal = appraise_quote(ak, parts, inputs["nonce"], bank, request)
    except (AttestreamError, binascii.Error):
        return Outcome("fail")
    ids = list(appraisal.event_ids)
    values: dict[str, object] = {"recoverable": all(map(is_recoverable, ids)), "highest": SeverityPolicy().highest(ids)}
    return Outcome("fail" if ids else "pass", ids, values)


def _log(inputs: Any, folder: Path) -> bytes:
    if inputs.get("log") is not None:
        return (folder / inputs["log"]).read_bytes()
    return base64.b64decode(inputs.get("log_b64_literal") or "", validate=True)


def _reference(inputs: Any, folder: Path) -> str | None:
    if inputs.get("mb_policy") is not None:
        return (folder / inputs["mb_policy"]).read_text(encoding="utf-8")
    literal: str | None = inputs.get("mb_policy_literal")
    return literal
