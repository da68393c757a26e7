"""``python -m fuzz [--seconds N] [--only NAME,...] [--corpus DIR]``: every target, one on each processor at a time.

The exit code is 1 after a breach.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.targets import TARGETS


def main() -> int:
    """Run the targets, one process each, and say what came of them."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz every parser.")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--only", default="", help="targets, separated by commas")
    parser.add_argument(
        "--corpus", type=Path, default=Path("build/fuzz"), help="where inputs are kept (default: build/fuzz)"
    )
    options = parser.parse_args()
    chosen = set(options.only.split(",")) if options.only else {target.name for target in TARGETS}
    unknown = chosen - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(target.name for target in TARGETS)}")
    names = [target.name for target in TARGETS if target.name in chosen]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(lambda name: _run(name, options.seconds, options.corpus), names))
    failed = [name for name, good in zip(names, passed, strict=True) if not good]
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(name: str, seconds: int, corpus: Path) -> bool:
    command = [sys.executable, "-m", "fuzz.one", name, str(seconds), str(corpus / name)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    executed = [line for line in ended.stderr.splitlines() if line.startswith("Done ")]
    print(f"{name:24} {'passed' if ended.returncode == 0 else 'FAILED'}  {executed[-1] if executed else ''}", flush=True)
    if ended.returncode:
        print(ended.stdout[-2000:], ended.stderr[-6000:], sep="\n")
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
