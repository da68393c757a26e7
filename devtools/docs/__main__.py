"""``python -m devtools.docs`` writes the generated documents; with ``--check`` it only compares them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from devtools.docs import asyncapi, commands, contract, json_schema, manufacturers, permissions, reference, sizing

ROOT: Final = Path(__file__).resolve().parents[2] / "docs"

DOCUMENTS: Final[dict[str, Callable[[], str]]] = {
    "contract.md": contract.document,
    "contract/messages.schema.json": json_schema.document,
    "contract/asyncapi.json": asyncapi.document,
    "findings.md": reference.findings,
    "errors.md": reference.errors_page,
    "metrics.md": reference.metrics,
    "configuration.md": reference.configuration,
    "cli.md": commands.document,
    "manufacturers.md": manufacturers.document,
    "security/permissions.md": permissions.document,
    "sizing.md": sizing.document,
}
"""File under ``docs`` -> what makes its content."""


def stale(root: Path = ROOT) -> list[str]:
    """Return the files that are not what the code says."""
    return [name for name, make in DOCUMENTS.items() if _read(root / name) != make()]


def write(root: Path = ROOT) -> list[str]:
    """Bring every file up to date and return those that have changed."""
    changed = stale(root)
    for name in changed:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DOCUMENTS[name](), encoding="utf-8")
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devtools.docs", description="Generate the reference documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is not up to date")
    if not parser.parse_args(arguments).check:
        for name in write():
            print(f"docs/{name} written")
        return 0
    found = stale()
    for name in found:
        print(f"docs/{name} is not up to date: run `python -m devtools.docs`", file=sys.stderr)
    return 1 if found else 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
