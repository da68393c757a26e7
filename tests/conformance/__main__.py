"""``python -m tests.conformance FOLDER [--category NAME] [--json]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conformance.deviations import DeviationsError, load
from tests.conformance.runner import Report, Status, run_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; return 0 when all agree or are excused, 1 when not, 2 for a mistake in the call."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run a folder of conformance cases.")
    parser.add_argument("folder", type=Path, help="folder with one JSON file for each category")
    parser.add_argument("--category", default="", help="run only this category")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    try:
        deviations = load()
    except DeviationsError as error:
        parser.error(str(error))
    report = run_folder(options.folder, category=options.category, deviations=deviations)
    if options.json:
        json.dump(as_json(report), sys.stdout, indent=1)
        print()
    else:
        show(report, Console(soft_wrap=True))
    return 0 if report.good else 1


def as_json(report: Report) -> dict[str, object]:
    """Return the report for machines."""
    return {
        "good": report.good,
        "categories": {
            category: {"cases": sum(counts.values()), **{status.value: counts[status] for status in Status}}
            for category, counts in _counts(report).items()
        },
        "problems": list(report.problems),
        "cases": [
            {"category": item.category, "id": item.case_id, "status": item.status.value, "details": list(item.details)}
            for item in report.results
            if item.status is not Status.AGREE
        ],
    }


def show(report: Report, console: Console) -> None:
    """Print a table of the categories, and under it what does not agree."""
    table = Table("category", *(heading for heading in ("cases", *(status.value for status in Status))))
    for column in table.columns[1:]:
        column.justify = "right"
    total: Counter[Status] = Counter()
    for category, counts in _counts(report).items():
        table.add_row(category, *_figures(counts))
        total += counts
    table.add_section()
    table.add_row("all", *_figures(total))
    console.print(table)
    for item in report.results:
        if item.status is not Status.AGREE:
            console.print(f"{item.status.value}: {item.case_id}", markup=False, highlight=False)
            for detail in item.details:
                console.print(f"    {detail}", markup=False, highlight=False)
    for problem in report.problems:
        console.print(f"problem: {problem}", markup=False, highlight=False)


def _figures(counts: Counter[Status]) -> list[str]:
    return [str(sum(counts.values())), *(str(counts[status]) for status in Status)]


def _counts(report: Report) -> dict[str, Counter[Status]]:
    counts: dict[str, Counter[Status]] = {}
    for item in report.results:
        counts.setdefault(item.category, Counter())[item.status] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
