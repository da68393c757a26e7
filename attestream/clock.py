"""The clock of the wall, as every message tells the time."""

from __future__ import annotations

import time


def unix_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
