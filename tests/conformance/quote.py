"""Quotes: the signature, the nonce, and the PCR values that are signed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from attestream.errors import AttestreamError
from attestream.interop.keys import public_of_pem, read_public
from attestream.interop.pcr_blob import parse_pcr_blob
from attestream.interop.quotes import QuoteParts, check_quote, parse_quote_text
from attestream.tpm.structures import ClockInfo, parse_quote
from tests.conformance.outcome import CannotRunError, Outcome


def run(case: Any, folder: Path) -> Outcome:
    call, inputs = case["call"], case["inputs"]
    try:
        if "unmarshal_tpms_attest" in call:
            return _parsed(parse_quote_text(inputs["quote"]))
        if "checkquote" not in call:
            raise CannotRunError(f"unknown call {call}")
        if "ak_pem" in inputs:
            ak = public_of_pem(inputs["ak_pem"])
            parts = QuoteParts(*(base64.b64decode(inputs[name]) for name in ("attest", "sig", "pcrblob")))
        else:
            ak = read_public(base64.b64decode(inputs["ak_tpm"]))
            parts = parse_quote_text(inputs["quote"], compressed=bool(inputs.get("compressed")))
        checked = check_quote(ak, parts, inputs["nonce"], inputs["hash_alg"])
    except AttestreamError:
        return Outcome("fail", values={"pcrs": {}})
    return Outcome("pass", values={"pcrs": {str(pcr): value.hex() for pcr, value in checked.pcrs.items()}})


def _parsed(parts: QuoteParts) -> Outcome:
    quote, blob = parse_quote(parts.attest), parse_pcr_blob(parts.pcrs)
    values: dict[str, object] = {
        "extraData": quote.extra_data.hex(),
        "clock": clock_values(quote.clock),
        "pcrDigest": quote.pcr_digest.hex(),
        "pcrs": {str(pcr): value.hex() for bank in blob.values.values() for pcr, value in bank.items()},
    }
    return Outcome("pass", values=values)


def clock_values(clock: ClockInfo) -> dict[str, int]:
    """Return a clock as the cases write it."""
    return {
        "clock": clock.clock,
        "resetCount": clock.reset_count,
        "restartCount": clock.restart_count,
        "safe": int(clock.safe),
    }
