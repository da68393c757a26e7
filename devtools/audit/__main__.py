"""``python -m devtools.audit``: look over the repository; exit code 1 when there is something to say."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from devtools.audit import advisories, packages, secrets, vendored
from devtools.audit.tracked import history, tracked

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = ("requirements.lock", "requirements-build.lock")

KNOWN: Final = {
    ("tests/conformance/own/makecredential.json", "value of a secret's name"): "input of a published test vector",
}
"""What looks like a secret and is none: path and kind -> why."""


def found_secrets(root: Path, *, past: bool = False) -> Iterator[str]:
    """Yield a line for each secret in the tracked files, or with ``past`` in every version of every file."""
    files = history(root) if past else ((str(path.relative_to(root)), path.read_bytes()) for path in tracked(root))
    for name, data in files:
        for secret in secrets.scan(data):
            if (name.partition(" ")[0], secret.kind) not in KNOWN:
                yield f"{name}: {secret}"


def found(root: Path, source: Path | None = None, *, past: bool = False) -> Iterator[str]:
    """Yield everything that there is to say; ``source`` has the advisories."""
    yield from found_secrets(root, past=past)
    for name in LOCKS:
        yield from packages.unpinned(root / name)
        if source is not None:
            yield from advisories.judged(packages.pins(root / name), advisories.read(source))
    yield from packages.licences(root / LOCKS[0])
    files = tracked(root)
    yield from packages.foreign_imports(root, files, root / LOCKS[0])
    yield from vendored.found(root, files)


def main() -> int:
    """Print what there is to say and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devtools.audit", description=__doc__)
    parser.add_argument("--advisories", type=Path, help="advisories in the OSV format: a JSON file, or a directory of them")
    parser.add_argument("--history", action="store_true", help="look for secrets in all that was ever committed, too")
    arguments = parser.parse_args()
    lines = list(found(ROOT, arguments.advisories, past=arguments.history))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    if arguments.advisories is None:
        sys.stdout.write("Known weaknesses were not looked up: name a file with --advisories.\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
