"""What the kernel tells about this machine and its processes (``proc(5)``)."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from attestream.embedded.nats import COLLECTING, find_server

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LIBRARIES: Final = ("nats-py", "uvloop", "msgspec", "cryptography")


def cpu_seconds(pid: int) -> float:
    """Return user and system time of all threads of ``pid``, in seconds (a hundredth is the resolution)."""
    return parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")) / _TICKS


def parse_cpu_ticks(stat: str) -> int:
    """Return ``utime + stime`` of the text of ``/proc/<pid>/stat``; the name in it may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def unique_bytes(pid: int) -> int:
    """Return the memory that would be free if ``pid`` ended (its unique set size), in bytes."""
    return parse_unique_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace"))


def parse_unique_bytes(rollup: str) -> int:
    """Return ``Private_Clean + Private_Dirty`` of the text of ``/proc/<pid>/smaps_rollup``, in bytes."""
    wanted = ("Private_Clean:", "Private_Dirty:")
    return sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith(wanted))


def reset_peak(pid: int) -> None:
    """Let :func:`peak_bytes` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(pid: int) -> int:
    """Return the most memory that ``pid`` has had at once (its peak resident set size), in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def describe() -> dict[str, str | int | float]:
    """Return what a reader of figures must know about the machine they come from."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    server = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "machine_cpu": _cpu_model(),
        "machine_cores": len(os.sched_getaffinity(0)),
        "machine_memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "machine_system": f"{platform.system()} {platform.release()}",
        "machine_python": platform.python_version(),
        "machine_versions": f"{versions}, {server}",
        "machine_gogc": (COLLECTING | os.environ)["GOGC"],
        "machine_load_before": round(os.getloadavg()[0], 2),
        "machine_steal_share": steal_share(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Foreign:
    """Measures how busy everything else kept the machine, from when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds() - _own_seconds()

    def cores(self) -> float:
        """Return the CPU seconds per second that neither this process used nor the children that have ended since."""
        return max(0.0, (_busy_seconds() - _own_seconds() - self._busy) / (time.monotonic() - self._began))


def _busy_seconds() -> float:
    spent = _jiffies()
    return (sum(spent[:8]) - spent[3] - spent[4]) / _TICKS


def _own_seconds() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def steal_share(seconds: float = 0.5) -> float:
    """Return the share of CPU time that the hypervisor kept for others during ``seconds``."""
    before = _jiffies()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(_jiffies(), before, strict=True)]
    return round(spent[7] / max(1, sum(spent[:8])), 3)


def _jiffies() -> list[int]:
    with Path("/proc/stat").open(encoding="ascii") as file:
        return [int(number) for number in file.readline().split()[1:]]


def _cpu_model() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
