"""Exit codes, and errors as one line."""

from __future__ import annotations

import json
from typing import Final

import click

from attestream.errors import AttestreamError, BusError, ConfigError

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
NO_ANSWER: Final = 3
NOT_TRUSTED: Final = 4
INTERRUPTED: Final = 130

HELP: Final = (
    "Exit codes: 0 done; 1 refused, or some of several failed; 2 wrong argument or configuration; 3 the bus or a service "
    "does not answer, or a command is accepted but not executed yet; 4 not trusted (`agents show --check`, "
    "`appraise`); 130 interrupted."
)


def code_of(error: AttestreamError) -> int:
    """Return the exit code for ``error``."""
    if isinstance(error, BusError):
        return NO_ANSWER
    return USAGE if isinstance(error, ConfigError) else REFUSED


def machine_code(error: AttestreamError) -> str:
    """Return the stable code of ``error``: for a refused command, the one in its outcome."""
    from attestream.client.connection import CommandRefusedError

    return error.outcome.code if isinstance(error, CommandRefusedError) else error.code


def report(error: AttestreamError, *, as_json: bool) -> None:
    """Write one line about ``error`` to standard error: what is wrong and what to do, or a JSON document."""
    if as_json:
        document = {"error": machine_code(error), "message": error.message, "remedy": error.hint}
        click.echo(json.dumps(document), err=True)
        return
    message = f"{click.style('error', fg='red', bold=True)}: {one_line(error.message)}. {one_line(error.hint)}"
    click.echo(message, err=True)


def one_line(text: str) -> str:
    """Return ``text`` without line ends, control characters, and a full stop at its end."""
    flat = " ".join(text.split()).rstrip(".")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
