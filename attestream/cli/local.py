"""Commands that start things on this machine: ``init``, ``up``, ``run``, ``demo``."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

import click

from attestream.cli import exits
from attestream.cli.output import write_json
from attestream.cli.servers import named, server_dir
from attestream.cli.session import Session, json_option, pass_session
from attestream.errors import ConfigError

AcceptEk = Literal["any", "warn", "certificate", "hook"]

SERVICES: Final = ("registrar", "verifier", "notifier", "agent")
DEFAULT_PORT: Final = 4222
STORE_VARIABLE: Final = "ATTESTREAM_LIMITS_STORE_DIR"

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where keys, state and streams are kept.",
)
_accept_ek = click.option(
    "--accept-ek",
    type=click.Choice(["certificate", "warn", "hook", "any"]),
    default="certificate",
    show_default=True,
    help="Which TPMs may enrol: those with a certificate by a CA in DIR/ek-store or of --ek-manufacturers; all, with "
    "warnings; those that a command of yours accepts; or any.",
)
_manufacturers = click.option(
    "--ek-manufacturers",
    "manufacturers",
    default="",
    metavar="NAME,NAME",
    callback=lambda _context, _option, text: [part.strip() for part in text.split(",") if part.strip()],
    help="TPM manufacturers whose CA certificates, as they come with Attestream, count, or `all`; default: none. "
    "`attestream certificates manufacturers` lists them.",
)
_hosts = click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Name or address under which the bus is reached, for its certificate; may be given several times. "
    "Default: localhost, 127.0.0.1, ::1, and this machine's name.",
)
_operator = click.option(
    "--operator",
    default="admin",
    show_default=True,
    help="Name of the first person who may do everything; the identity is made in DIR/operators.",
)


@click.command()
@_data_dir
@_accept_ek
@_manufacturers
@click.option("--port", type=click.IntRange(1, 65_535), default=DEFAULT_PORT, show_default=True, help="Port of the bus.")
@_hosts
@click.option(
    "--cluster",
    default="",
    metavar="HOST,HOST,HOST",
    help="Make configurations for bus servers on these machines too (NAME=HOST gives one a name).",
)
@server_dir
@_operator
@json_option
@pass_session
def init(session: Session, /, data_dir: Path | None, as_json: bool, cluster: str, **options: Any) -> None:
    """Make an installation: keys, identities, certificates and a configuration. Nothing is overwritten."""
    from attestream.installation.inventory import offline
    from attestream.installation.making import initialise
    from attestream.installation.places import Installation

    directory = session.directory(data_dir)
    servers = named(tuple(part.strip() for part in cluster.split(","))) if cluster else []
    options["on_host"] = options.pop("server_dir")
    made = initialise(directory, servers=servers, **options)
    away = offline(Installation(directory.absolute()))[:3]
    if as_json:
        write_json({"made": [str(path) for path in made], "offline": [each["file"] for each in away]})
        return
    for path in made:
        click.echo(f"made {path}")
    click.echo("keep these away from this machine, where only their commands need them:")
    for each in away:
        click.echo(f"  {each['file']}  ({each['what']})")


@click.command()
@_data_dir
@_accept_ek
@_manufacturers
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=None, help="Port of the bus, 0 for a free one; default: as configured."
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of verifier workers.")
@click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    help="Address of the interface on which the bus is reached; all but the loopback one speak TLS alone.",
)
@click.option(
    "--websocket-port", type=click.IntRange(0, 65_535), default=0, help="Port for WebSocket over TLS; default: none."
)
@click.option("--insecure", is_flag=True, help="The bus asks nobody who they are, and nothing is signed. Only for tests.")
@pass_session
def up(
    session: Session,
    /,
    data_dir: Path | None,
    accept_ek: AcceptEk,
    manufacturers: list[str],
    port: int | None,
    **options: Any,
) -> int:
    """Run the bus and all services on this machine, in the foreground.

    An empty data directory is initialised first. Nobody reaches the bus without credentials. Ctrl-C or SIGTERM ends
    everything in order.
    """
    import asyncio

    from attestream import config
    from attestream.embedded.stack import run_stack
    from attestream.installation.making import initialise
    from attestream.installation.places import Installation
    from attestream.telemetry import set_up_logging

    place = Installation(session.directory(data_dir).absolute())
    if not place.exists:
        wanted = port or DEFAULT_PORT
        for path in initialise(place.directory, accept_ek=accept_ek, manufacturers=manufacturers, port=wanted):
            click.echo(f"made {path}", err=True)
    loaded = config.load(place.config_file, session.environment)
    set_up_logging(loaded.log, "up")
    chosen = port if port is not None else urlsplit(loaded.bus.urls[0]).port or DEFAULT_PORT
    environment = dict(session.environment)
    if loaded.limits.store_dir is None:
        # The bus is on this machine: its disk is watched, also where the configuration is from before there was a setting.
        environment[STORE_VARIABLE] = str(place.bus)
    asyncio.run(run_stack(place, port=chosen, environment=environment, **options))
    return exits.OK


@click.command()
@click.argument("service", type=click.Choice(SERVICES))
@click.option("--config", "config_file", type=click.Path(path_type=Path), default=None, help="Configuration file.")
@pass_session
def run(session: Session, service: str, config_file: Path | None) -> NoReturn:
    """Run one service against the bus that its configuration names."""
    from attestream import config
    from attestream.embedded.stack import service_argv
    from attestream.installation.places import Installation

    path = config_file or session.config_file() or Installation(session.directory()).config_file
    environment = dict(session.environment)
    if session.url:
        environment["ATTESTREAM_BUS_URLS"] = session.url
    if session.credentials is not None:
        environment["ATTESTREAM_BUS_CREDENTIALS"] = str(session.credentials.absolute())
    if session.ca is not None:
        environment["ATTESTREAM_BUS_CA_FILE"] = str(session.ca.absolute())
    config.load(path, environment)
    _become(service_argv(service, str(path)), environment)


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@pass_session
def demo(session: Session, arguments: tuple[str, ...]) -> NoReturn:
    """Watch a machine being enrolled, attested, tampered with and revoked."""
    if importlib.util.find_spec("devtools") is None:
        raise ConfigError("the demonstration is not installed", remedy="Run it in the source tree: `make demo`.")
    _become([sys.executable, "-m", "devtools.demo", *arguments], dict(session.environment))


def _become(argv: list[str], environment: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, environment)  # noqa: S606 - no shell, and the arguments are ours
