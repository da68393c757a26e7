"""Known weaknesses of the packages in a lock, from a file of advisories in the OSV format (https://ossf.github.io/osv-schema/).

Advisories can not be had offline. Whoever has a copy (such as the PyPI part of the OSV database, a directory of JSON
files) names it; nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from devtools.audit.packages import Pin

_ECOSYSTEM: Final = "PyPI"


def read(source: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a JSON file, which has one or a list of them, or of all JSON files of a directory.

    :raises OSError: it can not be read.
    :raises ValueError: a file has no advisories.
    """
    for path in sorted(source.glob("**/*.json")) if source.is_dir() else [source]:
        found = json.loads(path.read_text(encoding="utf-8"))
        for advisory in found if isinstance(found, list) else [found]:
            if not isinstance(advisory, dict) or "id" not in advisory:
                raise ValueError(f"{path} is no advisory in the OSV format")
            yield advisory


def judged(pins: Iterable[Pin], advisories: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each advisory about the version of a package in ``pins``."""
    versions = {pin.name: pin.version for pin in pins}
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") == _ECOSYSTEM and name in versions and _is_affected(versions[name], affected):
                yield f"{name} {versions[name]}: {advisory['id']} {advisory.get('summary', '')}".rstrip()
                break


def _is_affected(version: str, affected: dict[str, Any]) -> bool:
    if version in affected.get("versions", []):
        return True
    ranges = [each for each in affected.get("ranges", []) if each.get("type") == "ECOSYSTEM"]
    return any(_is_within(Version(version), each.get("events", [])) for each in ranges)


def _is_within(version: Version, events: list[dict[str, str]]) -> bool:
    """Tell whether a version is affected: the last event that is not above it decides."""
    bounds = []
    for event in events:
        for kind, text in event.items():
            try:
                at = Version("0.dev0" if text == "0" else text)
            except InvalidVersion:
                # What can not be compared is told rather than passed over.
                return True
            bounds.append((at, kind))
    inside = False
    for at, kind in sorted(bounds):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside
