"""PCR selections and values (TPM 2.0 Part 2, TPML_PCR_SELECTION; Part 3, TPM2_PCR_Read)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tpm2_pytss import ESAPI, TPML_PCR_SELECTION

Banks = Mapping[str, Sequence[int]]
"""PCR bank -> PCR indexes."""


def selection(banks: Banks) -> TPML_PCR_SELECTION:
    """Return ``banks`` as the TPM wants it, in the same order of banks."""
    return TPML_PCR_SELECTION.parse("+".join(f"{bank}:{','.join(map(str, indexes))}" for bank, indexes in banks.items()))


def read(tpm: ESAPI, banks: Banks) -> dict[str, dict[int, bytes]]:
    """Return the values of ``banks``; a bank or PCR that the TPM does not have is left out."""
    values: dict[str, dict[int, bytes]] = {}
    for bank, indexes in banks.items():
        wanted = list(indexes)
        while wanted:
            # The TPM answers with at most eight values at a time, and says which.
            _, answered, digests = tpm.pcr_read(selection({bank: wanted}))
            got = _indexes(answered)
            if not got:
                break
            values.setdefault(bank, {}).update(zip(got, (bytes(digest) for digest in digests), strict=True))
            wanted = [index for index in wanted if index not in got]
    return values


def _indexes(answered: TPML_PCR_SELECTION) -> list[int]:
    """Return the PCR indexes of the one bank in ``answered``, ascending."""
    for bank in answered:
        bits = int.from_bytes(bytes(bank.pcrSelect)[: bank.sizeofSelect], "little")
        return [index for index in range(bits.bit_length()) if bits >> index & 1]
    return []
