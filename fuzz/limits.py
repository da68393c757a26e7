"""What no input may do to a parser: raise anything but our own errors, take long, or take much memory."""

from __future__ import annotations

import time
import tracemalloc
from typing import Final

from attestream.errors import AttestreamError
from fuzz.target import Target
from schemas.base import SchemaError

SECONDS_PER_MEGABYTE: Final = 1.0
LEAST_SECONDS: Final = 0.5
"""An input of a few bytes may still meet a pause of the machine."""
MEMORY_FACTOR: Final = 20


class LimitError(AssertionError):
    """An input went beyond a limit."""


def check(target: Target, data: bytes) -> None:
    """Run ``target`` on ``data``.

    :raises LimitError: when it takes too long. Any error that is not ours passes through.
    """
    began = time.thread_time()
    _call(target, data)
    took = time.thread_time() - began
    allowed = max(LEAST_SECONDS, SECONDS_PER_MEGABYTE * len(data) / 1e6)
    if took > allowed:
        raise LimitError(f"{target.name} took {took:.2f} s for {len(data)} bytes")


def check_memory(target: Target, data: bytes) -> None:
    """Run ``target`` on ``data`` and measure what it allocates. Slow: for the last round over a corpus.

    :raises LimitError: when it takes more than what is fixed and :data:`MEMORY_FACTOR` times the input.
    """
    tracemalloc.start()
    try:
        _call(target, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > target.fixed_memory + MEMORY_FACTOR * len(data):
        raise LimitError(f"{target.name} allocated {peak} bytes for {len(data)} bytes")


def _call(target: Target, data: bytes) -> None:
    try:
        target.run(data)
    except (AttestreamError, SchemaError):
        return
