"""The packages that Attestream is built from: pinned by hash, under a licence that is allowed, and no others imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALLOWED: Final = frozenset(
    {
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "LGPL-3.0-only",  # used as a library that anybody can replace
        "MIT",
        "MIT-0",
        "MPL-2.0",  # used unchanged
        "PSF-2.0",
    }
)
"""SPDX identifiers of licences that go together with Apache-2.0."""

_SPOKEN: Final = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd": "BSD-2-Clause",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""What packages write in place of an SPDX identifier."""

_UNSAID: Final = {"atheris": "Apache-2.0"}
"""Packages whose metadata names no licence: it is in their LICENSE file."""

_FOREIGN: Final = {"keylime": "the interpreter of the incumbent that `make bench` compares with"}
"""Modules that are imported in other interpreters."""

_OWN: Final = ("attestream", "schemas", "services", "devtools", "bench", "fuzz", "tests")
_SHIPPED: Final = ("attestream", "schemas", "services")


class Pin(NamedTuple):
    """A line of a lock."""

    name: str
    version: str
    marker: str
    hashes: int


def pins(lock: Path) -> list[Pin]:
    """Return what ``lock`` pins."""
    found = []
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        if not entry.strip() or entry.startswith("#"):
            continue
        head, _, marker = entry.partition("\\\n")[0].partition(";")
        name, _, version = head.strip().partition("==")
        found.append(Pin(canonicalize_name(name), version.strip(), marker.strip(), entry.count("--hash=sha256:")))
    return found


def unpinned(lock: Path) -> list[str]:
    """Return what is wrong with the pins of ``lock``: each package needs an exact version and its hashes."""
    return [
        f"{lock.name}: {pin.name} has no {'exact version' if not pin.version else 'hash'}"
        for pin in pins(lock)
        if not pin.version or not pin.hashes
    ]


def needed(found: Iterable[Pin]) -> Iterator[Pin]:
    """Yield those of ``found`` that this platform and interpreter need."""
    return (pin for pin in found if not pin.marker or Marker(pin.marker).evaluate())


def licences(lock: Path) -> Iterator[str]:
    """Yield what is wrong with the licences of the packages of ``lock`` that are installed here."""
    for pin in needed(pins(lock)):
        try:
            found = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            yield f"{pin.name} {pin.version} is not installed: its licence is not known"
            continue
        if found.version != pin.version:
            yield f"{pin.name} is installed as {found.version}, and {lock.name} has {pin.version}"
        said = licence(found.metadata)
        if not said:
            yield f"{pin.name} does not say its licence"
        elif not _allowed(said):
            yield f"{pin.name} is under {said}"


def licence(found: metadata.PackageMetadata) -> str:
    """Return the licence that a package's metadata names, as an SPDX expression; empty when it does not."""
    name = canonicalize_name(found["Name"])
    spoken = [found[field] for field in ("License-Expression", "License") if field in found]
    spoken += [
        line.rpartition("::")[2].strip()
        for line in found.get_all("Classifier") or []
        if line.startswith("License ::") and "approved" not in line
    ]
    for each in spoken:
        if each and len(each) < 200:
            return _SPOKEN.get(each.lower(), each)
    return _UNSAID.get(name, "")


def _allowed(expression: str) -> bool:
    """Tell whether an SPDX expression leaves a choice that is allowed. ``OR`` binds less than ``AND``."""
    choices = [choice.split(" AND ") for choice in expression.replace("(", "").replace(")", "").split(" OR ")]
    return any(all(part.strip() in ALLOWED for part in choice) for choice in choices)


def foreign_imports(root: Path, files: Iterable[Path], lock: Path) -> Iterator[str]:
    """Yield imports of packages that ``lock`` does not have, and, in what is shipped, of those that are not declared."""
    locked, declared = {pin.name for pin in pins(lock)}, _declared(root)
    owners = metadata.packages_distributions()
    for path in files:
        if path.suffix != ".py":
            continue
        place = path.relative_to(root)
        for module in sorted(imported(path.read_text(encoding="utf-8"))):
            if module in sys.stdlib_module_names or module in _OWN or module in _FOREIGN:
                continue
            packages = {canonicalize_name(name) for name in owners.get(module, [])}
            if not packages & locked:
                yield f"{place} imports {module}, which is in no package of {lock.name}"
            elif place.parts[0] in _SHIPPED and not packages & declared:
                yield f"{place} imports {module}, which pyproject.toml does not name"


def imported(source: str) -> set[str]:
    """Return the top-level modules that ``source`` imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _declared(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    return {canonicalize_name(Requirement(line).name) for line in [*project["dependencies"], *extras]}
