"""Policies about single PCRs: ``{"22": ["<hex>", ...], "15": "<hex>", "mask": "0x408000"}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestream.appraisal.text import printable
from attestream.errors import PolicyError

DATA_PCR: Final = 16
"""PCR that binds the agent's transport key."""
IMA_PCR: Final = 10
MAX_TEXT: Final = 1 << 20
MAX_VALUES: Final = 4096

_PCRS: Final = 24


@dataclass(frozen=True, slots=True)
class TpmPolicy:
    """Allowed values of PCRs."""

    values: Mapping[int, frozenset[str]]
    """PCR -> values, as the verifier compares them: hex in the letters in which they are written."""
    mask: int
    """PCRs to quote: bit n stands for PCR n."""

    @property
    def pcrs(self) -> tuple[int, ...]:
        """PCRs of the mask, ascending."""
        return tuple(pcr for pcr in range(_PCRS) if self.mask >> pcr & 1)


def read_tpm_policy(text: str) -> TpmPolicy:
    """Return the policy as a verifier stores it, with its mask.

    :raises PolicyError: when it is not well formed; the message names the place.
    """
    document = _load(text)
    mask = document.pop("mask", "0x0")
    try:
        bits = int(mask, 0)
    except (TypeError, ValueError):
        raise PolicyError("mask: must be a text such as 0x408000") from None
    if not 0 <= bits < 1 << _PCRS:
        raise PolicyError(f"mask: selects PCRs over {_PCRS - 1}")
    return TpmPolicy({_pcr(key): frozenset(_values(value, key)) for key, value in document.items()}, bits)


def make_tpm_policy(text: str, *, runtime: bool = False, boot_pcrs: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the document with lower-case values and mask that is stored for what an operator wrote.

    :param runtime: whether a runtime policy is used too, so that PCR 10 is quoted.
    :param boot_pcrs: PCRs that a boot policy needs.
    :raises PolicyError: when it is not well formed, or names a PCR that has another use.
    """
    document = _load(text)
    document.pop("mask", None)
    made: dict[str, Any] = {}
    mask = sum(1 << pcr for pcr in set(boot_pcrs)) | (int(runtime) << IMA_PCR)
    for key, value in document.items():
        pcr = _pcr(key)
        if pcr in (DATA_PCR, IMA_PCR):
            raise PolicyError(f"{key}: this PCR binds data or the IMA log and has no fixed value")
        if pcr in boot_pcrs:
            raise PolicyError(f"{key}: this PCR is judged by the boot policy")
        made[key] = [item.lower() for item in _values(value, key)]
        mask |= 1 << pcr
    return {**made, "mask": hex(mask)}


def _load(text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise PolicyError(f"the document: has {len(text)} characters; the limit is {MAX_TEXT}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the document: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise PolicyError("the document: must be a JSON object")
    return document


def _pcr(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 3 and int(key) < _PCRS):
        raise PolicyError(f"{printable(key)}: is not a PCR; they are 0 to {_PCRS - 1}")
    return int(key)


def _values(value: Any, place: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) > MAX_VALUES or not all(isinstance(item, str) for item in values):
        raise PolicyError(f"{place}: must be a hex text or a list of at most {MAX_VALUES} of them")
    return values
