"""Opens the TPM for one operation at a time, and knows which of its refusals pass by themselves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from tpm2_pytss import ESAPI, TSS2_Exception

from attestream.errors import AttestreamError, TpmError

_T = TypeVar("_T")

_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.25

_LAYER: Final = 0xFFFF0000
_TPM_LAYERS: Final = (0x00000000, 0x000B0000)  # the TPM itself, or the resource manager in its stead
_PASSING: Final = frozenset((0x902, 0x903, 0x904, 0x908, 0x90A, 0x922))
"""TPM_RC_OBJECT_MEMORY, SESSION_MEMORY, MEMORY, YIELDED, TESTING, RETRY: the TPM is in use, or not ready."""

_USELESS: Final = frozenset((0x2, 0xB, 0x15))
"""TSS2_BASE_RC_NOT_IMPLEMENTED, BAD_VALUE, NOT_SUPPORTED from the layers above the TPM: a TCTI string that leads nowhere."""


class TpmRefusedError(TpmError):
    """The TPM refused a command, and would refuse it again."""

    permanent = True


class Transport:
    """A TPM behind a TCTI string such as ``device:/dev/tpmrm0`` or ``swtpm:host=127.0.0.1,port=2321``.

    :param busy_s: how long a TPM that is busy or away is waited for, in seconds.
    """

    def __init__(self, tcti: str, *, busy_s: float = 5.0) -> None:
        # Failures reach the caller with their text; TSS2's own log would print each one a second time.
        os.environ.setdefault("TSS2_LOG", "all+NONE")
        self._tcti = tcti
        self._busy_s = busy_s
        self._lock = threading.Lock()

    def run(self, what: str, operation: Callable[[ESAPI], _T]) -> _T:
        """Do ``operation`` on the opened TPM, from its start again while the TPM is busy or away. Blocks.

        :param what: for messages, as in "the TPM can not ``quote``".
        :raises TpmRefusedError: when the TPM refuses, or the TCTI string leads nowhere.
        :raises TpmError: when it could not be used within ``busy_s``.
        """
        deadline = time.monotonic() + self._busy_s
        pause = _FIRST_PAUSE_S
        with self._lock:
            while True:
                try:
                    with ESAPI(self._tcti) as tpm:
                        return operation(tpm)
                except TSS2_Exception as error:
                    message = f"the TPM at {self._tcti} can not {what}: {error}"
                    if refused_for_good(error):
                        raise TpmRefusedError(message) from error
                    if time.monotonic() + pause > deadline:
                        raise TpmError(message) from error
                except AttestreamError:
                    raise
                except (RuntimeError, ValueError) as error:  # tpm2-pytss's own checks of a TCTI string or an argument
                    raise TpmRefusedError(f"the TPM at {self._tcti} can not {what}: {error}") from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)


def refused_for_good(error: TSS2_Exception) -> bool:
    """Whether the same would be refused again: not when the transport has failed or the TPM is busy."""
    code = error.rc & ~_LAYER
    return code not in _PASSING if (error.rc & _LAYER) in _TPM_LAYERS else code in _USELESS
