"""Gives back memory that the C library keeps for later: after hundreds of logs have been read at once that is more than
all that the worker knows of its agents."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

EVERY_S: Final = 5.0

WORTH: Final = 4 << 20
"""Bytes by which the process must have grown before it looks for free ones: in a hundred megabytes that takes a millisecond
(malloc_trim(3))."""

_STATM: Final = Path("/proc/self/statm")


async def give_back_now_and_then(every_s: float = EVERY_S) -> None:
    """Look every ``every_s`` seconds, for ever, and give back what is free; nothing where the C library is not glibc."""
    trim = _trim()
    kept = 0
    while trim is not None:
        await asyncio.sleep(every_s)
        held = _resident_bytes()
        if held > kept + WORTH:
            trim(0)
            kept = _resident_bytes()
        kept = min(kept, held)


def _resident_bytes() -> int:
    """Return the memory that the process has in use (proc(5), ``/proc/pid/statm``)."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGESIZE")


def _trim() -> Callable[[int], int] | None:
    if not _STATM.exists():
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
