"""The command ``servers``: configurations for bus servers on machines of their own."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from attestream.cli.keys import installed
from attestream.cli.output import write_json
from attestream.cli.session import Session, json_option, pass_session
from attestream.errors import ConfigError

if TYPE_CHECKING:
    from attestream.installation.bus_server import Server

_SERVER: Final = re.compile(r"(?:([A-Za-z0-9_-]{1,64})=)?([A-Za-z0-9.:_-]+)\Z", re.ASCII)

server_dir = click.option(
    "--server-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where each server's files will lie on its machine; default: where they are made.",
)


@click.group()
def servers() -> None:
    """Make configurations for servers of the bus."""


@servers.command()
@click.argument("servers", nargs=-1, required=True, metavar="[NAME=]HOST...")
@click.option("--host", "hosts", multiple=True, help="Name or address that all of them are reached under as well.")
@server_dir
@json_option
@pass_session
def make(session: Session, servers: tuple[str, ...], hosts: tuple[str, ...], server_dir: Path | None, as_json: bool) -> None:
    """Make a directory for each server: configuration, certificate and key. Several servers form a cluster.

    Each directory is to be copied to the machine of its server, and run there with `nats-server -c nats.conf`.
    """
    from attestream.installation.servers import make_servers

    place = installed(session)
    try:
        made = make_servers(place, named(servers), datetime.now(UTC), hosts=hosts, on_host=server_dir)
    except OSError as error:
        raise ConfigError(f"the servers' directories can not be made: {error}") from error
    if as_json:
        write_json({"made": [str(path) for path in made]})
        return
    for path in made:
        click.echo(f"made {path}")


def named(texts: tuple[str, ...]) -> list[Server]:
    """Return the servers that ``[NAME=]HOST`` arguments name; those without a name are bus-1, bus-2, ...

    :raises ConfigError: one is neither.
    """
    from attestream.installation.bus_server import Server

    found = []
    for number, text in enumerate(texts, 1):
        match = _SERVER.match(text)
        if match is None:
            raise ConfigError(f"{text[:80]!r} is not a server", remedy="Write its host, or NAME=HOST.")
        found.append(Server(match[1] or f"bus-{number}", match[2]))
    return found
