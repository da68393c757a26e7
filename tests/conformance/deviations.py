"""The excuses: cases whose expected value is wrong."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import re2

FILE: Final = Path(__file__).with_name("deviations.toml")
_KEYS: Final = {"category", "case", "pattern", "value", "reason", "right"}


class DeviationsError(Exception):
    """The file of deviations is not well formed."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One row."""

    category: str
    case: str
    """The id of a case, or empty."""
    pattern: str
    """An RE2 expression that matches the whole id of each case, or empty."""
    value: str
    """The expected value that is wrong; empty when all are."""
    reason: str
    """Why the expected value is wrong."""
    right: str
    """What is right."""

    def excuses(self, value: str) -> bool:
        """Return whether this row is about the expected ``value``; empty for a case that can not run at all."""
        return self.value in ("", value)

    def matches(self, category: str, case_id: str) -> bool:
        """Return whether this row is about the case."""
        if category != self.category:
            return False
        return case_id == self.case if self.case else re2.fullmatch(self.pattern, case_id) is not None


def load(path: Path = FILE) -> list[Deviation]:
    """Return the rows of the file.

    :raises DeviationsError: when a row lacks something or would excuse a whole category.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeviationsError(f"{path.name}: {error}") from error
    if unknown := document.keys() - {"deviation"}:
        raise DeviationsError(f"{path.name}: unknown table {min(unknown)!r}")
    rows = document.get("deviation", [])
    if not isinstance(rows, list):
        raise DeviationsError(f"{path.name}: rows begin with [[deviation]]")
    return [_row(row, f"{path.name}: row {number}") for number, row in enumerate(rows, 1)]


def _row(row: Any, place: str) -> Deviation:
    if not isinstance(row, dict) or row.keys() - _KEYS:
        raise DeviationsError(f"{place}: known keys are {', '.join(sorted(_KEYS))}")
    if not all(isinstance(value, str) and value.strip() for value in row.values()):
        raise DeviationsError(f"{place}: every value must be a text")
    if missing := {"category", "reason", "right"} - row.keys():
        raise DeviationsError(f"{place}: lacks {min(missing)!r}")
    if ("case" in row) == ("pattern" in row):
        raise DeviationsError(f"{place}: needs either `case` or `pattern`")
    pattern = row.get("pattern", "")
    if pattern:
        try:
            loose = re2.fullmatch(pattern, f"{row['category']}-") or re2.fullmatch(pattern, f"{row['category']}-0")
        except re2.error as error:
            raise DeviationsError(f"{place}: {pattern!r} is not an RE2 expression") from error
        if loose:
            raise DeviationsError(f"{place}: {pattern!r} excuses any case of {row['category']}")
    return Deviation(row["category"], row.get("case", ""), pattern, row.get("value", ""), row["reason"], row["right"])
