"""Attestation keys that an IAK certifies."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.identity import check_certified_by_iak
from attestream.interop.keys import read_public
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    ak, iak, attest, signature = (base64.b64decode(inputs[name]) for name in ("ak_tpm", "iak_tpm", "iak_attest", "iak_sign"))
    try:
        check_certified_by_iak(inputs["uuid"], read_public(ak), read_public(iak), attest, signature)
    except AttestreamError:
        return Outcome("fail")
    return Outcome("pass")
