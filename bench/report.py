"""Tables for people, and one flat JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

Figure = str | int | float
Rows = Sequence[tuple[str, ...]]


class Report:
    """Gathers figures, prints them part by part, and writes ``path``."""

    def __init__(self, path: Path, facts: dict[str, Figure]) -> None:
        self.figures: dict[str, Figure] = dict(facts)
        self._path = path
        self._console = Console(width=118)
        table = Table("machine", "", title="Measured on")
        for name, value in facts.items():
            table.add_row(name.removeprefix("machine_"), str(value))
        self._console.print(table)

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._console.print(f"[dim]{text}[/dim]")

    def table(self, title: str, head: list[str], rows: Rows, caption: str, figures: dict[str, Figure]) -> None:
        """Show a part's table, and keep its figures: the file is written after every part."""
        table = Table(*head, title=title, caption=caption, caption_justify="left", title_justify="left")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
        self.keep(figures)

    def keep(self, figures: dict[str, Figure]) -> None:
        """Write ``figures`` beside those of the parts before."""
        self.figures |= figures
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")


def against(value: float, goal: float, *, more: bool, unit: str = "") -> str:
    """Return ``value`` with whether it meets ``goal``; ``more``: more is better."""
    met = value >= goal if more else value <= goal
    return f"{value:,.4g}{unit} ({'goal' if met else 'MISSES'} {'>=' if more else '<='} {goal:,g}{unit})"
