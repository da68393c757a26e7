"""Checks of uploaded runtime policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.policy_upload import check_upload
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    try:
        uploaded = check_upload((folder / case["inputs"]["policy"]).read_bytes())
    except AttestreamError:
        return Outcome("fail")
    return Outcome("pass", values={"generator": uploaded.generator, "checksum_sha256": uploaded.checksum})
