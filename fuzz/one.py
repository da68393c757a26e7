"""Fuzzes one target in its own process: ``python -m fuzz.one NAME SECONDS CORPUS``. Ends at the first breach."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["attestream", "schemas"]):
    from fuzz import limits, targets

MAX_INPUT = 65_536


def main() -> None:
    """Run until the time is over, then measure the memory of every input that was worth keeping."""
    name, seconds, corpus = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    target = targets.named(name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    for kept in sorted(corpus.iterdir()):
        limits.check_memory(target, kept.read_bytes())
    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup(
        [*arguments, f"-artifact_prefix={corpus.parent}/{name}-", str(corpus)], lambda data: limits.check(target, data)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
