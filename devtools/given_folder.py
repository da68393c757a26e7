"""Folders of vectors that stand outside this repository: tests use them, or say what belongs there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]


class GivenFolder(NamedTuple):
    """A folder of vectors, which may not be there."""

    path: Path
    missing: str
    """Why tests over it are skipped: what to put where. Empty when it is there."""


def given_folder(variable: str, name: str, needed: list[str], layout: str) -> GivenFolder:
    """Return the folder that the environment's ``variable`` names, or ``shared/NAME`` beside this repository.

    :param needed: files without which nothing in it can be tested.
    :param layout: what belongs into it, for people.
    :raises FileNotFoundError: when the folder is there, or was named, and lacks one of ``needed``: a folder that lost its
        files must not look like one that nobody has.
    """
    named = os.environ.get(variable, "")
    path = Path(named) if named else _ROOT.parent / "shared" / name
    if not named and not path.exists():
        return GivenFolder(path, f"{path} is not there, and {variable} names no other folder; {layout}")
    lacking = [file for file in needed if not path.joinpath(file).is_file()]
    if lacking:
        raise FileNotFoundError(f"{path} lacks {', '.join(lacking)}; {layout}")
    return GivenFolder(path, "")
