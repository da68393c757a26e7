"""Objects that are in the TPM for the time of one operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_SENSITIVE_CREATE, TSS2_Exception

from services.agent.tpm_templates import storage_root


@contextlib.contextmanager
def storage_primary(tpm: ESAPI) -> Iterator[ESYS_TR]:
    """The storage primary key, derived anew; parent of what the agent keeps outside the TPM."""
    handle, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), storage_root(), ESYS_TR.OWNER)
    try:
        yield handle
    finally:
        flush(tpm, handle)


def flush(tpm: ESAPI, handle: ESYS_TR) -> None:
    """Drop an object or a session; one that is gone already is no error."""
    with contextlib.suppress(TSS2_Exception):
        tpm.flush_context(handle)
