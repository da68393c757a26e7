"""What the agent needs of the Python environment that this program runs in: the installed files, found by their metadata."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from attestream.errors import ConfigError

_OURS: Final = "attestream"
_EXTRA: Final = "agent"


def agent_distributions() -> list[Distribution]:
    """Return the distributions that the agent's installation consists of, without our own, by name.

    :raises ConfigError: when one is not installed.
    """
    needed: dict[str, Distribution] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(_OURS, (_EXTRA,))]
    while waiting:
        name, extras = waiting.pop()
        if name in needed:
            continue
        try:
            needed[name] = distribution(name)
        except PackageNotFoundError as error:
            raise ConfigError(f"the Python package {name} is not installed", remedy="Run `make install`.") from error
        waiting += [(_normal(item.name), tuple(item.extras)) for item in _requirements(needed[name], extras)]
    return [needed[name] for name in sorted(needed) if name != _OURS]


def copy_distribution(source: Distribution, target: Path) -> None:
    """Copy the modules of ``source`` into the directory ``target``; programs and byte code stay behind.

    :raises ConfigError: when the distribution does not say which files are its own.
    """
    if source.files is None:
        raise ConfigError(f"{source.metadata['Name']} was installed without a list of its files")
    for file in source.files:
        if ".." in file.parts or file.is_absolute() or file.suffix == ".pyc":
            continue
        destination = target.joinpath(*file.parts)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), destination)


def _requirements(source: Distribution, extras: tuple[str, ...]) -> Iterator[Requirement]:
    for text in source.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        contexts: list[dict[str, str | AbstractSet[str]]] = [{"extra": extra} for extra in ("", *extras)]
        if marker is None or any(
            marker.evaluate({str(key): str(value) for key, value in each.items()}) for each in contexts
        ):
            yield requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
