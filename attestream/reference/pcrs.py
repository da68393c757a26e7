"""Reference values of PCRs, from lists of values, quotes and evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from attestream.appraisal.document import check_object
from attestream.appraisal.policy import FORMAT, PCRS
from attestream.errors import MalformedError, PolicyError
from attestream.ima.log import IMA_PCR
from attestream.interop.pcr_blob import parse_pcr_blob
from attestream.interop.quotes import parse_quote_text
from attestream.reference.collected import joined
from attestream.tpm.algorithms import hash_named
from attestream.tpm.quote import pcr_digest
from attestream.tpm.structures import parse_quote, parse_signature
from schemas.attestation import Evidence

MAX_BYTES: Final = 1 << 20
MAX_EVIDENCE_BYTES: Final = 128 << 20

_BANK: Final = re.compile(r"\s*(sha1|sha256|sha384|sha512)\s*:\s*")
_VALUE: Final = re.compile(r"\s*(\d{1,2})\s*:\s*(?:0x)?([0-9A-Fa-f]+)\s*")

Values = dict[str, dict[int, bytes]]
"""Bank -> PCR -> value."""


def read_values(data: bytes) -> Values:
    """Return the PCR values in ``data``.

    It is one of: what ``tpm2_pcrread`` prints, a JSON object ``{"sha256": {"0": "<hex>"}}``, evidence as MessagePack, a
    quote's text as agents of the incumbent send it, or the PCR blob of ``tpm2_quote``. Where there is a quote, the values
    must be those that it is over; whose quote it is is not checked.

    :raises MalformedError: when it is none of them.
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        raise MalformedError(f"PCR values have at most {MAX_EVIDENCE_BYTES} bytes, not {len(data)}")
    if (evidence := _evidence(data)) is not None:
        return _of_quote(evidence.quote, evidence.signature, evidence.pcr_values)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return _checked({bank: dict(values) for bank, values in parse_pcr_blob(data).values.items()})
    if len(text) > MAX_BYTES:
        raise MalformedError(f"a list of PCR values has at most {MAX_BYTES} characters")
    if text.startswith("r") and ":" in text:
        parts = parse_quote_text(text.strip())
        return _of_quote(parts.attest, parts.signature, parse_pcr_blob(parts.pcrs).values)
    return _checked(_from_json(text) if text.lstrip().startswith("{") else _from_lines(text))


def _evidence(data: bytes) -> Evidence | None:
    try:
        return msgspec.msgpack.decode(data, type=Evidence)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _of_quote(attest: bytes, signature: bytes, values: Mapping[str, Mapping[int, bytes]]) -> Values:
    quote = parse_quote(attest)
    hash_name = parse_signature(signature, trailing=True).hash
    if pcr_digest(hash_name, quote.selection, values) != quote.pcr_digest:
        raise MalformedError("the PCR values are not those that the quote is over")
    selected = {(bank, pcr) for bank, pcrs in quote.selection for pcr in pcrs}
    return _checked(
        {bank: {pcr: value for pcr, value in found.items() if (bank, pcr) in selected} for bank, found in values.items()}
    )


def _from_json(text: str) -> Values:
    try:
        top = json.loads(text)
        return {
            bank: {int(pcr): bytes.fromhex(value.removeprefix("0x")) for pcr, value in values.items()}
            for bank, values in top.items()
        }
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise MalformedError("the PCR values are not JSON of the form bank, PCR, hexadecimal value") from error


def _from_lines(text: str) -> Values:
    found: Values = {}
    bank = ""
    for number, line in enumerate(text.split("\n"), 1):
        if head := _BANK.fullmatch(line):
            bank = head[1]
        elif (value := _VALUE.fullmatch(line)) and bank and len(value[2]) % 2 == 0:
            found.setdefault(bank, {})[int(value[1])] = bytes.fromhex(value[2])
        elif line.strip():
            raise MalformedError(f"line {number} is neither a PCR bank nor a PCR value of one")
    return found


def _checked(values: Values) -> Values:
    if not any(values.values()):
        raise MalformedError("there are no PCR values")
    for bank, found in values.items():
        size = hash_named(bank).size
        for pcr, value in found.items():
            if not 0 <= pcr < PCRS or len(value) != size:
                raise MalformedError(f"{len(value)} bytes are no value of PCR {pcr} in bank {bank}")
    return values


def pcr_document(
    sources: Iterable[Values],
    *,
    bank: str = "sha256",
    pcrs: Iterable[int] = range(8),
    base: Mapping[str, Any] | None = None,
    description: str = "",
) -> dict[str, Any]:
    """Return a policy document that allows the values of ``pcrs`` in any of ``sources``, besides those that ``base`` allows.

    :raises PolicyError: when a source lacks a PCR, or PCR 10 is wanted, or the bank of ``base`` is another.
    """
    wanted = sorted(set(pcrs))
    if IMA_PCR in wanted:
        raise PolicyError(f"PCR {IMA_PCR} changes with each measured file", remedy="Make a runtime policy for it.")
    found: dict[str, list[str]] = {}
    for values in sources:
        for pcr in wanted:
            if pcr not in values.get(bank, {}):
                raise PolicyError(
                    f"there is no value of PCR {pcr} in bank {bank}", remedy="Choose others with --pcrs or --bank."
                )
            found.setdefault(str(pcr), []).append(values[bank][pcr].hex())
    made: dict[str, Any] = dict(base) if base else {"format": FORMAT, "description": description, "bank": bank}
    if made.get("bank") != bank:
        raise PolicyError(f"the base has bank {made.get('bank')!r}, not {bank!r}")
    table = joined(check_object(made.get("pcrs", {}), "pcrs"), found, "pcrs")
    made["pcrs"] = {pcr: table[pcr] for pcr in sorted(table, key=int)}
    return made
