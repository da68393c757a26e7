"""Gives back memory that the C library keeps for later: after hundreds of logs have been read at once that is more than
all that the worker knows of its agents."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 30.0


async def give_back_now_and_then(every_s: float = EVERY_S) -> None:
    """Give back what is free every ``every_s`` seconds, for ever; nothing where the C library is not glibc."""
    trim = _trim()
    while trim is not None:
        await asyncio.sleep(every_s)
        # A millisecond for a hundred megabytes, far less when there is nothing to give back (malloc_trim(3)).
        trim(0)


def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
