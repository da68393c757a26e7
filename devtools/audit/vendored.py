"""Data in the repository that was not made here: each has a row in a manifest, with a licence that is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from devtools.audit.packages import ALLOWED

MANIFEST: Final = "MANIFEST.toml"
CERTIFICATES: Final = frozenset({".cer", ".crt", ".der", ".pem"})


def found(root: Path, files: Iterable[Path]) -> Iterator[str]:
    """Yield what is wrong: a licence that is not allowed or not told, and certificates that no manifest is about."""
    listed = list(files)
    folders = [path.parent for path in listed if path.name == MANIFEST]
    for folder in folders:
        licences = list(_licences(tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))))
        place = (folder / MANIFEST).relative_to(root)
        yield from (f"{place} names the licence {said}" for said in sorted(set(licences) - ALLOWED))
        if not licences:
            yield f"{place} names no licence"
    for path in listed:
        if path.suffix.lower() in CERTIFICATES and not any(path.is_relative_to(folder) for folder in folders):
            yield f"{path.relative_to(root)} stands in no {MANIFEST}"


def _licences(value: Any) -> Iterator[str]:
    """Yield every value that is called a licence, however deep."""
    if isinstance(value, list):
        for one in value:
            yield from _licences(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "licence":
                yield str(one)
            else:
                yield from _licences(one)
