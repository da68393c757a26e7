"""Public areas of TPM keys: the key and its name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.keys import pem, read_public
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    try:
        public = read_public(base64.b64decode(case["inputs"]["tpm2b_public"]))
    except AttestreamError:
        return Outcome("fail")
    values: dict[str, object] = {
        "name_alg": int.from_bytes(public.name[:2], "big"),
        "name": public.name.hex(),
        "pem": pem(public),
    }
    return Outcome("pass", values=values)
