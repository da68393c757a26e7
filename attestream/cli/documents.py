"""Policy documents in files: reading with a bound, writing, and how far a long work is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from attestream.cli import output
from attestream.errors import MalformedError, TooLargeError

MAX_FILE: Final = 256 << 20
_SHOWN_REMARKS: Final = 10

input_path = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
"""A file to read, or - for standard input."""
output_option = click.option(
    "-o", "--output", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)


def read(path: Path, limit: int = MAX_FILE) -> bytes:
    """Return the content of a file, or of standard input for ``-``.

    :raises MalformedError: when it can not be read.
    :raises TooLargeError: when it is over ``limit`` bytes.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise MalformedError(f"{path} can not be read: {error.strerror}", remedy="Check its name and rights.") from error
    if len(data) > limit:
        raise TooLargeError(f"{path} is larger than {limit} bytes")
    return data


def read_text(path: Path, limit: int = MAX_FILE) -> str:
    """Return the content of a text file.

    :raises MalformedError: when it can not be read, or is not UTF-8.
    """
    try:
        return read(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path} is not text in UTF-8") from error


def write(data: bytes, target: Path | None) -> None:
    """Write ``data`` to a file, or to standard output without one.

    :raises MalformedError: when the file can not be written.
    """
    if target is None:
        click.echo(data, nl=not data.endswith(b"\n"))
        return
    try:
        target.write_bytes(data if data.endswith(b"\n") else data + b"\n")
    except OSError as error:
        raise MalformedError(
            f"{target} can not be written: {error.strerror}", remedy="Check its name and rights."
        ) from error


def write_document(
    document: dict[str, Any], target: Path | None, remarks: list[str], *, as_json: bool, summary: str
) -> None:
    """Write a policy document, and tell on standard error what was left out.

    To a file it goes indented, and with ``as_json`` a report goes to standard output; without a file the document does.
    """
    indented = target is not None or not as_json
    # Bytes of paths that are not UTF-8 are lone surrogates: only escapes can carry them.
    write(json.dumps(document, indent=2 if indented else None).encode("ascii"), target)
    if target is not None and as_json:
        output.write_json({"file": str(target), "remarks": [_printable(remark) for remark in remarks]})
        return
    for remark in remarks[:_SHOWN_REMARKS]:
        output.note(_printable(remark))
    if len(remarks) > _SHOWN_REMARKS:
        output.note(f"... and {len(remarks) - _SHOWN_REMARKS} more were left out")
    if target is not None:
        click.echo(f"{target}: {summary}")


def _printable(text: str) -> str:
    return output.visible(text).plain


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal during the block; yield what is to be called with what is done and what there is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
