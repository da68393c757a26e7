"""What a process and its descendants use (``proc(5)``): both sides are several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return ``pid`` and its descendants that are alive."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and (fields := _fields(int(place.name))):
            parents.setdefault(int(fields[1]), []).append(int(place.name))
    found, pending = [], [pid]
    while pending:
        one = pending.pop()
        if _fields(one):
            found.append(one)
            pending += parents.get(one, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of processes, and of those children of theirs that have ended."""
    return sum(sum(int(field) for field in _fields(pid)[11:15]) for pid in pids) / _TICKS


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of processes: pages that several share are counted once among them."""
    return sum(_proportional(pid) for pid in pids)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _proportional(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` that follow the name; none when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    fields = stat.rpartition(")")[2].split()
    return [] if fields[0] in "ZX" else fields
