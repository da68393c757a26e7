"""Runs a service by a clock that can be moved while it runs: ``python -m devtools.chaos.skewed FILE MODULE ARGUMENTS``.

FILE holds one signed 64-bit number, by how many nanoseconds the clock of the wall is ahead. What measures durations (the
monotonic clocks) stays true, as on a machine whose time was set wrongly.
"""

from __future__ import annotations

import mmap
import runpy
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Final

_NUMBER: Final = Struct("<q")


class Clock:
    """The file from where a process learns how wrong its clock is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, ahead_ms: int) -> None:
        """Put the clock ``ahead_ms`` milliseconds ahead; negative: behind."""
        data = _NUMBER.pack(ahead_ms * 1_000_000)
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.write(data)
        else:
            self.path.write_bytes(data)


def _follow(path: Path) -> None:
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), _NUMBER.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(_NUMBER.unpack_from(view)[0])

    # Every module asks the module `time`, so this is the whole process's clock.
    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    _follow(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
