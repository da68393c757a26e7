"""The first entry of the log: a digest over the PCRs that the firmware and boot loaders extended.

Source: Linux ``security/integrity/ima/ima_crypto.c``, ``ima_calc_boot_aggregate_tfm``: PCRs 0 to 9; 0 to 7 with SHA-1
and in kernels before 5.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestream.ima.digests import digest_field
from attestream.ima.hashing import HASHES

_RANGES: Final = (range(8), range(10))


def boot_aggregates(pcrs: Mapping[str, Mapping[int, bytes]]) -> frozenset[bytes]:
    """Return the digests (field ``d-ng``) that the kernel may have logged as ``boot_aggregate``.

    :param pcrs: PCR bank -> index -> value after the boot; banks and PCRs that are missing are left out.
    """
    found = set()
    for bank, values in pcrs.items():
        new = HASHES.get(bank)
        for indexes in _RANGES if new is not None else ():
            if new is not None and all(index in values for index in indexes):
                found.add(digest_field(bank, new(b"".join(values[index] for index in indexes)).digest()))
    return frozenset(found)
