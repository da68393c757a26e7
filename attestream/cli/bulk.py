"""Commands about many agents: reading lists of them, and sending with many under way at a time."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from attestream.cli import exits, output
from attestream.cli.durations import milliseconds
from attestream.cli.session import Session, complete
from attestream.errors import AttestreamError
from schemas import subjects
from schemas.commands import Attestation, Command, about

if TYPE_CHECKING:
    from attestream.client.connection import Client

IN_FLIGHT: Final = 256
"""Commands under way at a time."""

MAX_AGENTS: Final = 1_000_000
"""Most agents in one file."""

_SHOWN_FAILURES: Final = 20
_COLUMNS: Final = ("id", "policy", "interval", "lease")


class Report:
    """What became of the commands, by agent."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[tuple[str, AttestreamError]] = []


def read(file: TextIO, default: Attestation) -> list[tuple[str, Attestation]]:
    """Return the agents in ``file``: one id per line, CSV with ``id,policy,interval,lease`` (a header may change the
    order), or JSON lines with these keys. What a line leaves out is taken from ``default``; empty lines and ``#`` lines
    are skipped.

    :raises click.UsageError: when a line can not be understood, naming it; nothing has been sent then.
    """
    wanted: list[tuple[str, Attestation]] = []
    seen: set[str] = set()
    columns: tuple[str, ...] = _COLUMNS
    for number, text in _lines(file):
        try:
            if text.startswith("{"):
                row = _json_row(text)
            else:
                cells = [cell.strip() for cell in next(csv.reader([text]))]
                if not wanted and set(cells) <= set(_COLUMNS) and "id" in cells:
                    columns = tuple(cells)
                    continue
                if len(cells) > len(columns):
                    raise ValueError(f"{len(cells)} fields; at most {','.join(columns)}")
                row = dict(zip(columns, cells, strict=False))
            agent_id = row.pop("id", "")
            if not subjects.AGENT_ID.match(agent_id):
                raise ValueError(f"{agent_id[:100]!r} is not an agent id")
            if agent_id in seen:
                raise ValueError(f"{agent_id} is there twice")
            seen.add(agent_id)
            wanted.append((agent_id, _attestation(row, default)))
        except ValueError as error:
            raise click.UsageError(f"{getattr(file, 'name', 'input')}, line {number}: {error}") from error
    if not wanted:
        raise click.UsageError(f"{getattr(file, 'name', 'input')} names no agent")
    return wanted


def send(
    session: Session, commands: list[Command], done: str, *, as_json: bool, beside: Mapping[str, Any] | None = None
) -> int:
    """Send ``commands``, say what became of them, and return the exit code. ``done`` is the word for success, ``beside``
    what else a JSON answer tells."""
    report = complete(_send(session, commands))
    failed = report.failed
    if as_json:
        output.write_json(
            {
                done: report.done,
                "failed": [
                    {"id": name, "error": exits.machine_code(error), "message": error.message, "remedy": error.hint}
                    for name, error in failed
                ],
                **(beside or {}),
            }
        )
    else:
        if len(commands) > 1:
            output.line(f"{done} {len(report.done)} of {len(commands)}")
        elif report.done:
            output.line(f"{done} {report.done[0]}")
        _print_failures(failed, of=len(commands))
    if not failed:
        return exits.OK
    return exits.REFUSED if any(exits.code_of(error) == exits.REFUSED for _, error in failed) else exits.NO_ANSWER


def _print_failures(failed: list[tuple[str, AttestreamError]], *, of: int) -> None:
    if of == 1:
        for _, error in failed:
            exits.report(error, as_json=False)
        return
    for name, error in failed[:_SHOWN_FAILURES]:
        click.echo(f"{name}: {exits.one_line(error.message)}. {exits.one_line(error.hint)}", err=True)
    if len(failed) > _SHOWN_FAILURES:
        click.echo(f"... and {len(failed) - _SHOWN_FAILURES} more failed (see all with --json)", err=True)


async def _send(session: Session, commands: list[Command]) -> Report:
    report = Report()
    queue = iter(commands)
    async with session.client() as client:
        with _progress(len(commands)) as advance:
            senders = (_sender(client, queue, session.timeout_s, report, advance) for _ in range(IN_FLIGHT))
            await asyncio.gather(*senders)
    return report


async def _sender(
    client: Client, queue: Iterator[Command], timeout_s: float, report: Report, advance: Callable[[], None]
) -> None:
    for command in queue:
        name = about(command)
        try:
            await client.command(command, timeout_s=timeout_s)
        except AttestreamError as error:
            report.failed.append((name, error))
        else:
            report.done.append(name)
        advance()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error when it is a terminal and there is more than one command."""
    if total == 1 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    try:
        for number, line in enumerate(file, 1):
            if number > MAX_AGENTS:
                raise click.UsageError(f"more than {MAX_AGENTS} lines; split the file")
            if (text := line.strip()) and not text.startswith("#"):
                yield number, text
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{getattr(file, 'name', 'input')} is not UTF-8 text") from error


def _json_row(text: str) -> dict[str, str]:
    row: Any = json.loads(text)
    if unknown := sorted(set(row) - set(_COLUMNS)):
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(_COLUMNS)}")
    if not all(isinstance(value, str) for value in row.values()):
        raise ValueError("every value must be a string")
    return dict(row)


def _attestation(row: dict[str, str], default: Attestation) -> Attestation:
    return Attestation(
        policy=row.get("policy") or default.policy,
        interval_ms=milliseconds(row["interval"]) if row.get("interval") else default.interval_ms,
        lease_ms=milliseconds(row["lease"]) if row.get("lease") else default.lease_ms,
    )
