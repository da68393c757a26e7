"""Objects that are in the TPM for the time of one operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_SENSITIVE_CREATE, TPMS_CONTEXT, TSS2_Exception

from services.agent.tpm_templates import storage_root
from services.agent.tpm_transport import refused_for_good


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


class SavedContext:
    """A key as the TPM has saved it for us: loaded in milliseconds, where to derive it or its parent may take seconds."""

    def __init__(self) -> None:
        self._saved: TPMS_CONTEXT | None = None

    def save(self, tpm: ESAPI, handle: ESYS_TR) -> None:
        """Keep the loaded key ``handle``."""
        self._saved = tpm.context_save(handle)

    def load(self, tpm: ESAPI) -> ESYS_TR | None:
        """Load the key; ``None`` when none was saved, or the TPM was reset since.

        :raises TSS2_Exception: the TPM is busy or away.
        """
        if self._saved is None:
            return None
        try:
            return tpm.context_load(self._saved)
        except TSS2_Exception as error:
            if not refused_for_good(error):
                raise
            self._saved = None
            return None
