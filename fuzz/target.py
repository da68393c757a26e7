"""What a target of fuzzing is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    """A parser and inputs that it takes."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    fixed_memory: int = 1 << 20
    """Bytes that it may take however small the input is: the window of a decompressor."""
