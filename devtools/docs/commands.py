"""The page about the command line, from its own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from attestream.cli.main import cli
from devtools.docs.text import page

WIDTH: Final = 100


def document() -> str:
    """Return the page."""
    root = _context(cli, "attestream", None)
    blocks = []
    for context in (root, *below(root)):
        depth = "##" if context.parent is None or context.parent is root else "###"
        blocks.append(f"{depth} `{context.command_path}`\n\n```text\n{context.get_help()}\n```")
    return page("The command line", "This is what `--help` of each command says.", *blocks)


def below(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of every command under ``context``, in the order of its help."""
    group = context.command
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            inner = _context(command, name, context)
            yield inner
            yield from below(inner)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    # A width of its own: help must not depend on the terminal that it is generated in.
    return command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH, **command.context_settings
    )
