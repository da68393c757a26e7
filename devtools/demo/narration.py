"""What the demonstration says: rich text on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 200


class Narrator:
    """Writes to standard output. rich leaves colours out for ``NO_COLOR``, and all control codes where no terminal is."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_PLAIN_WIDTH)
        fancy = self._console.is_terminal and self._console.encoding.lower().startswith("utf")
        self._tick = "\N{CHECK MARK}" if fancy else "*"

    def headline(self, text: str) -> None:
        """Write the title of everything."""
        self._write(Text(text, style="bold"))

    def step(self, number: int, title: str, why: str) -> None:
        """Begin a step: its title, and why it matters."""
        self._write(Text())
        self._write(Text(f"{number}. {title}", style="bold cyan"))
        self._write(Text(why, style="dim"), 3)

    def seen(self, text: str, ms: float | None = None) -> None:
        """Write what was observed, and after how many milliseconds."""
        line = Text(f"{self._tick} ", style="green")
        line.append(text, style="default")
        if ms is not None:
            line.append(f"  [{ms:.0f} ms]", style="bold yellow")
        self._write(line, 3)

    def doing(self, text: str) -> None:
        """Write what is being done now."""
        self._write(Text(f"> {text}"), 3)

    def failure(self, text: str) -> None:
        """Write that something was not observed."""
        self._write(Text())
        self._write(Text(text, style="bold red"))

    def remark(self, text: str) -> None:
        """Write a line beside the story."""
        self._write(Text(text))

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show on a terminal what is being waited for, while the block runs."""
        return self._console.status(Text(f"waiting for {what}"), spinner="line")

    def summary(self, rows: Iterable[Sequence[str]]) -> None:
        """Write the closing table: step, what was observed, milliseconds."""
        table = Table(
            "Step", "Observed", "Milliseconds", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0)
        )
        table.columns[2].justify = "right"
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._write(Text())
        self._console.print(table)

    def _write(self, text: Text, indent: int = 0) -> None:
        if indent:
            self._console.print(Padding.indent(text, indent))
        else:
            self._console.print(text, soft_wrap=not self._console.is_terminal)
