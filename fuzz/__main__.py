"""``python -m fuzz [--seconds N] [--only NAME,...] [--corpus DIR]``: every target, one on each processor at a time.

The exit code is 1 after a breach.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import atheris

# Before anything else brings them in: what is imported later is not instrumented. Each module is told of on the way.
with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["attestream", "schemas", "services"]):
    from fuzz import one
    from fuzz.targets import TARGETS, named

_GRACE_S: Final = 120
"""Seconds that a target may take besides its time: measuring a large corpus."""


def main() -> int:
    """Run the targets and say what came of them."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz every parser.")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--only", default="", help="targets, separated by commas")
    parser.add_argument(
        "--corpus", type=Path, default=Path("build/fuzz"), help="where inputs are kept (default: build/fuzz)"
    )
    options = parser.parse_args()
    known = [target.name for target in TARGETS]
    chosen = set(options.only.split(",")) if options.only else set(known)
    if unknown := chosen - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.corpus.mkdir(parents=True, exist_ok=True)
    failed = _run([name for name in known if name in chosen], options.seconds, options.corpus)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(names: list[str], seconds: int, corpus: Path) -> list[str]:
    """Run the targets called ``names`` and return those that failed."""
    waiting = names[::-1]
    running: dict[int, tuple[BaseProcess, float]] = {}
    failed = []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            process = one.start(named(waiting.pop()), seconds, corpus)
            running[process.sentinel] = (process, time.monotonic() + seconds + _GRACE_S)
        for process, deadline in list(running.values()):
            if time.monotonic() > deadline:
                process.kill()
        for sentinel in wait(list(running), timeout=1):
            process, _ = running.pop(int(sentinel))  # type: ignore[arg-type]  # sentinels are descriptors here
            process.join()
            if not _passed(process, corpus):
                failed.append(process.name)
    return failed


def _passed(process: BaseProcess, corpus: Path) -> bool:
    said = one.said(process.name, corpus).read_text(errors="replace")
    done = [line for line in said.splitlines() if line.startswith("Done ")]
    good = process.exitcode == 0 and bool(done)
    print(f"{process.name:24} {'passed' if good else 'FAILED'}  {done[-1] if done else ''}", flush=True)
    if not good:
        print(f"exit code {process.exitcode}", said[-8000:], sep="\n", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
