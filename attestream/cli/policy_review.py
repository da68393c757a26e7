"""The commands ``policy diff`` and ``policy check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from attestream.cli import exits
from attestream.cli.documents import read
from attestream.cli.output import line, write_json
from attestream.cli.session import Session, complete, json_option, pass_session

if TYPE_CHECKING:
    from attestream.reference.comparison import Change

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}
_COLOURS: Final = {"added": "green", "removed": "red", "changed": "yellow", "warning": "yellow", "notice": "cyan"}


@click.command()
@click.argument("before", metavar="FILE|NAME[@VERSION]")
@click.argument("after", metavar="FILE|NAME[@VERSION]")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are differences.")
@json_option
@pass_session
def diff(session: Session, before: str, after: str, exit_code: bool, as_json: bool) -> int:
    """Show in what the second policy differs from the first: files, or published versions."""
    from attestream.reference.comparison import compare

    changes = compare(_document(session, before), _document(session, after))
    if as_json:
        write_json([change._asdict() for change in changes])
    else:
        for change in changes:
            _show(change)
        if not changes:
            click.echo("no difference", err=True)
    return exits.REFUSED if changes and exit_code else exits.OK


def _document(session: Session, reference: str) -> bytes:
    path = Path(reference)
    if path.is_file() or reference == "-":
        return read(path)
    return complete(_fetch(session, reference))


async def _fetch(session: Session, reference: str) -> bytes:
    async with session.client() as client:
        _, document = await client.policy(reference)
        return document


def _show(change: Change) -> None:
    from rich.text import Text

    values = [f" {_value(one)}" for one in (change.before, change.after) if one is not None]
    name = f" {change.name}" if change.name else ""
    line(Text(_SIGNS[change.kind], style=_COLOURS[change.kind]), f" {change.place}{name}{' ->'.join(values)}")


def _value(value: object) -> str:
    import json

    text = ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@click.command()
@click.argument("policy", metavar="FILE|NAME[@VERSION]")
@click.option("--layer", "layers", multiple=True, metavar="NAME@VERSION=FILE", help="A layer that the policy names.")
@json_option
@pass_session
def check(session: Session, policy: str, layers: tuple[str, ...], as_json: bool) -> int:
    """Look for mistakes: what would never match, and what allows more than it seems to. Exits with 1 on a warning."""
    from attestream.reference.boot_lint import WARNING
    from attestream.reference.lint import check_document

    remarks = check_document(_document(session, policy), dict(read_layer(text) for text in layers))
    if as_json:
        write_json([remark._asdict() for remark in remarks])
    else:
        from rich.text import Text

        for remark in remarks:
            line(Text(remark.level, style=_COLOURS[remark.level]), f" {remark.code} at {remark.place}: {remark.message}")
        if not remarks:
            click.echo("valid, and nothing is odd")
    return exits.REFUSED if any(remark.level == WARNING for remark in remarks) else exits.OK


def read_layer(text: str) -> tuple[str, bytes]:
    """Return the name and the document of a layer that is given as NAME@VERSION=FILE."""
    name, separator, path = text.partition("=")
    if not separator:
        raise click.BadParameter(f"{text!r} is not NAME@VERSION=FILE", param_hint="--layer")
    return name, read(Path(path))
