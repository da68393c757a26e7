"""Tables and colours for people, JSON for machines."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from schemas.events import Finding, Standing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLOURS: Final[Mapping[str, str]] = {
    Standing.TRUSTED: "green",
    Standing.FAILED: "bold red",
    Standing.UNKNOWN: "yellow",
    Standing.UNREACHABLE: "yellow",
    Standing.PENDING: "cyan",
    Standing.ENROLLED: "cyan",
    Standing.STOPPED: "dim",
}

_NEVER_FOLDED: Final = 10_000


def write_json(document: object) -> None:
    """Write one JSON document on one line. Bytes become base64, structures become objects with the fields' own names."""
    click.echo(json.dumps(plain(document), separators=(",", ":"), ensure_ascii=False))


def plain(value: object) -> Any:
    """Return ``value`` in the types of JSON; structures keep their Python field names."""
    if isinstance(value, msgspec.Struct):
        return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return msgspec.to_builtins(value)


@functools.cache
def console() -> Console:
    """Return the console on standard output; rich honours NO_COLOR and leaves out colours when it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def note(text: str) -> None:
    """Write a remark to standard error, so that it never mixes with results."""
    click.echo(click.style(text, fg="yellow"), err=True)


def standing(value: Standing | str) -> Text:
    """Return a standing in its colour."""
    from rich.text import Text

    return Text(str(value), style=_COLOURS.get(value, ""))


def findings(found: Iterable[Finding]) -> str:
    """Return findings in a few words: each code and who is to blame."""
    return "; ".join(f"{finding.code} {finding.culprit}" if finding.culprit else finding.code for finding in found)


def table(columns: Sequence[str], rows: Iterable[Sequence[Text | str]]) -> None:
    """Write a table. Cells are text as it is: nothing in them is taken for markup."""
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in row))
    # A pipe has no width: nothing may be folded there.
    terminal = console() if console().is_terminal else Console(highlight=False, width=_NEVER_FOLDED)
    terminal.print(made)


def visible(text: str) -> Text:
    """Return ``text`` from an attester or a stranger with its control characters made visible."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def line(*parts: Text | str) -> None:
    """Write one line."""
    from rich.text import Text

    made = Text()
    for part in parts:
        made.append_text(visible(part) if isinstance(part, str) else part)
    console().print(made, soft_wrap=True)
