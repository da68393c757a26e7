"""Measures one piece of work in this process. Standard library only: the incumbent's interpreter runs it, too."""

from __future__ import annotations

import gc
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cpu_s(work: Callable[[], Any], runs: int = 5) -> float:
    """Return the median of the CPU seconds that ``work`` takes, its child processes included, after one run that is not
    counted."""
    work()
    spent = []
    for _ in range(runs):
        gc.collect()
        before = _spent()
        work()
        spent.append(_spent() - before)
    return statistics.median(spent)


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def held_bytes(make: Callable[[], Any]) -> int:
    """Return how much memory the objects take that ``make`` returns. What it needs only on the way does not count."""
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return held


def peak_bytes(make: Callable[[], Any]) -> int:
    """Return by how much this process grew at most while ``make`` ran."""
    gc.collect()
    # Resets the peak (proc(5)); that of getrusage(2) would begin with the parent's.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak()
    made = make()
    after = _peak()
    del made
    return after - before


def _peak() -> int:
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def measure_making(what: str, make: Callable[[], Any]) -> float:
    """Return the ``time``, the memory ``held`` or the ``peak`` of ``make``."""
    if what == "time":
        return cpu_s(make, runs=3)
    return held_bytes(make) if what == "held" else peak_bytes(make)
