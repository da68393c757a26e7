"""Runs the cases of a folder through the adapters."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.compare import VERDICTS, Difference, differences
from tests.conformance.deviations import Deviation
from tests.conformance.outcome import CannotRunError, Outcome

Case = Mapping[str, Any]
Adapter = Callable[[Any, Path], Outcome]

_FRAME: Final = frozenset({"outcome", "compare", "deviations", "runner", "generate", "own"})


class Status(enum.StrEnum):
    """How a case came out."""

    AGREE = "agree"
    EXCUSED = "excused"
    DIFFER = "differ"
    CANNOT_RUN = "can not run"


@dataclass(frozen=True, slots=True)
class Result:
    """One case."""

    category: str
    case_id: str
    status: Status
    details: tuple[str, ...] = ()
    """In which points it differs, why it can not run, or why it is excused."""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    results: tuple[Result, ...]
    problems: tuple[str, ...]
    """What is wrong apart from single cases: a file that is no category, a category without adapter, a needless excuse."""

    @property
    def good(self) -> bool:
        """Whether every case agrees or is excused, there is at least one, and nothing else is wrong."""
        settled = all(result.status in (Status.AGREE, Status.EXCUSED) for result in self.results)
        return bool(self.results) and settled and not self.problems


def adapter_of(category: str) -> Adapter | None:
    """Return the adapter of a category, or None when there is none."""
    name = f"{__package__}.{category}"
    if not category.isidentifier() or category in _FRAME or category.startswith("test_"):
        return None
    if importlib.util.find_spec(name) is None:
        return None
    adapter: Adapter = importlib.import_module(name).run
    return adapter


def run_folder(
    folder: Path,
    *,
    category: str = "",
    deviations: Sequence[Deviation] = (),
    adapters: Callable[[str], Adapter | None] = adapter_of,
) -> Report:
    """Run the cases of ``folder``, or only those of one ``category``."""
    results: list[Result] = []
    problems: list[str] = []
    used: set[Deviation] = set()
    ran = 0
    for path in sorted(folder.glob("*.json")):
        name, cases, problem = _read(path)
        if category and (name or path.stem) != category:
            continue
        if problem:
            problems.append(problem)
            continue
        ran += 1
        try:
            adapter = adapters(name)
        except Exception as error:  # a broken adapter must not keep the other categories from being run
            problems.append(f"the adapter of {name} can not be loaded: {type(error).__name__}: {error}")
            continue
        if adapter is None:
            problems.append(f"category {name} has no adapter: {len(cases)} cases can not run")
            continue
        results += _run_category(name, cases, folder, adapter, deviations, used)
    problems += _repeated(results)
    # A row about cases that this folder does not have says nothing: a folder may hold a part of them.
    needless = (row for row in deviations if row not in used and any(row.matches(r.category, r.case_id) for r in results))
    problems += [f"excuse not needed: {_named(row)}" for row in needless]
    if not ran and not problems:
        problems.append(f"{folder} has no cases" + (f" of category {category}" if category else ""))
    return Report(tuple(results), tuple(problems))


def _read(path: Path) -> tuple[str, list[Case], str]:
    """Return the category in ``path``, its cases, and what is wrong with the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return "", [], f"{path.name} can not be read: {error}"
    if not isinstance(document, dict) or not isinstance(document.get("category"), str):
        return "", [], f"{path.name} is no file of cases: it names no category"
    cases = document.get("cases")
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) and "id" in case for case in cases):
        return document["category"], [], f"{path.name} has no cases"
    return document["category"], cases, ""


def _run_category(
    name: str, cases: Iterable[Case], folder: Path, adapter: Adapter, deviations: Sequence[Deviation], used: set[Deviation]
) -> Iterable[Result]:
    for case in cases:
        case_id = str(case["id"])
        status, found = run_case(case, folder, adapter)
        rows = [row for row in deviations if row.matches(name, case_id)]
        needed = {row for row in rows for item in found if row.excuses(item.value)}
        used |= needed
        details = tuple(item.text for item in found)
        if found and all(any(row.excuses(item.value) for row in rows) for item in found):
            status, details = Status.EXCUSED, (*sorted(row.reason for row in needed), *details)
        yield Result(name, case_id, status, details)


def run_case(case: Case, folder: Path, adapter: Adapter) -> tuple[Status, tuple[Difference, ...]]:
    """Return how one case comes out, and in which points it is not good."""
    expected = case.get("expected")
    # An oracle without values would agree with anything.
    if not isinstance(expected, dict) or expected.get("verdict") not in VERDICTS:
        return Status.CANNOT_RUN, (Difference("", "the case expects no verdict: it is an oracle without values"),)
    try:
        found = differences(expected, adapter(case, folder))
    except CannotRunError as error:
        return Status.CANNOT_RUN, (Difference("", str(error)),)
    except Exception as error:  # whatever an adapter raises, the other cases are still run and this one counts as a failure
        return Status.CANNOT_RUN, (Difference("", f"{type(error).__name__}: {error}"),)
    return (Status.DIFFER, tuple(found)) if found else (Status.AGREE, ())


def _repeated(results: Iterable[Result]) -> list[str]:
    counts = Counter(item.case_id for item in results)
    return [f"id {case_id} stands {count} times" for case_id, count in counts.items() if count > 1]


def _named(row: Deviation) -> str:
    return f"{row.category} {row.case or row.pattern}"
