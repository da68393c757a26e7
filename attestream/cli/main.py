"""The root of the command line: global options, commands loaded when they are called, and errors as one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from attestream import __version__
from attestream.cli import exits
from attestream.cli.session import Session
from attestream.errors import AttestreamError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("attestream.cli.local:init", "Make a data directory with keys and a configuration."),
    "up": ("attestream.cli.local:up", "Run the bus and all services on this machine."),
    "run": ("attestream.cli.local:run", "Run one service."),
    "provision": ("attestream.cli.provision:provision", "Make the streams of a bus, or bring them up to date."),
    "demo": ("attestream.cli.local:demo", "Watch a machine being enrolled, attested, tampered with and revoked."),
    "status": ("attestream.cli.status:status", "Show the cluster at a glance."),
    "agents": ("attestream.cli.agents:agents", "Put agents under attestation and see how they stand."),
    "workers": ("attestream.cli.workers:workers", "See verifier workers, empty them, share the work out."),
    "enrolments": ("attestream.cli.enrolments:enrolments", "Remove enrolments."),
    "policy": ("attestream.cli.policy:policy", "Make, check, publish and read policies."),
    "appraise": ("attestream.cli.appraise:appraise", "Appraise evidence that was kept in files."),
    "evidence": ("attestream.cli.evidence:evidence", "Find, prove and replay evidence that was kept."),
    "events": ("attestream.cli.tails:events", "Follow what happens."),
    "revocations": ("attestream.cli.tails:revocations", "Follow verified revocations."),
    "identities": ("attestream.cli.identities:identities", "Issue identities on the bus to services and new machines."),
    "operators": ("attestream.cli.operators:operators", "Add people, show and revoke them."),
    "keys": ("attestream.cli.keys:keys", "Show and replace the keys of this installation."),
    "certificates": ("attestream.cli.certificates:certificates", "Show and renew the certificates of the bus."),
    "servers": ("attestream.cli.servers:servers", "Make configurations for servers of the bus."),
    "backup": ("attestream.cli.backup:backup", "Copy a cluster, and make an empty one from a copy."),
    "completion": ("attestream.cli.completion:completion", "Print the script for shell completion."),
}
"""Command -> where it is, and its one line of help, so that neither help nor completion needs to load it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name][0]} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=exits.HELP)
@click.option("--url", default="", help="URL of the bus, for example nats://127.0.0.1:4222.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    default=None,
    help="Your directory, as `operators add` made it, or a file with credentials on the bus.",
)
@click.option("--ca", type=click.Path(path_type=Path), default=None, help="PEM file of the CA that vouches for the bus.")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Configuration file.")
@click.option("--data-dir", type=click.Path(path_type=Path), default=None, help="Data directory of `attestream up`.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True, help="Seconds to wait for an answer."
)
@click.version_option(__version__, prog_name="attestream")
@click.pass_context
def cli(ctx: click.Context, /, timeout: float, **options: Any) -> None:
    """Continuous remote attestation over NATS JetStream.

    The bus is looked for in this order: --url, ATTESTREAM_URL, --config or ATTESTREAM_CONFIG, and the data directory
    (--data-dir, ATTESTREAM_DATA_DIR, or the default one). Credentials and CA likewise: --credentials and --ca,
    ATTESTREAM_CREDENTIALS and ATTESTREAM_CA, and so on; in a data directory, those of the person who made it. Naming the
    configuration of a data directory is naming that directory.
    """
    ctx.obj = Session(**options, timeout_s=timeout, environment=dict(os.environ))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        status = cli.main(args=arguments, prog_name="attestream", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return exits.USAGE
    except click.ClickException as error:
        return _complain(error)
    except click.Abort:
        return exits.INTERRUPTED
    except AttestreamError as error:
        exits.report(error, as_json=_wants_json(arguments))
        return exits.code_of(error)
    except BrokenPipeError:
        # The reader has gone (`| head`); Python must not complain about it again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    return status if isinstance(status, int) else exits.OK


def _complain(error: click.ClickException) -> int:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "attestream"
    click.echo(f"{where}: {error.format_message()} (see `{where} --help`)", err=True)
    return error.exit_code


def _wants_json(arguments: Sequence[str] | None) -> bool:
    return "--json" in (sys.argv[1:] if arguments is None else arguments)
