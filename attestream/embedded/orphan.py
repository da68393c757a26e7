"""Child processes that do not outlive the process which keeps them."""

from __future__ import annotations

import ctypes
import signal
from typing import Final

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent() -> None:
    """Have the kernel end this process with SIGTERM when the thread that started it ends (``prctl(2)``).

    For a child between fork and exec: it calls into libc alone and takes no lock.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
