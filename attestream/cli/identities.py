"""The command ``identities``: credentials for further services, and for machines that are to enrol."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from attestream.cli.durations import duration
from attestream.cli.keys import installed
from attestream.cli.output import write_json
from attestream.cli.session import Session, json_option, pass_session
from attestream.errors import ConfigError
from schemas.roles import Role

ISSUED: Final = (Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER, Role.GATEWAY, Role.PROVISIONER, Role.ENROLMENT)
"""Roles for which credentials are made here: an agent's are the registrar's to issue, and people have more than these."""


@click.group()
def identities() -> None:
    """Issue identities on the bus to services and new machines."""


@identities.command()
@click.argument("role", type=click.Choice([str(role) for role in ISSUED]))
@click.argument("name")
@click.option("--lifetime", default=None, callback=duration, help="How long it holds, for example 30d; default: for ever.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File to write.")
@json_option
@pass_session
def issue(session: Session, role: str, name: str, lifetime: int | None, output: Path | None, as_json: bool) -> None:
    """Write credentials of a new identity NAME with what ROLE may do on the bus. Nothing is overwritten."""
    from attestream.installation.bus_keys import issue as issue_identity
    from attestream.installation.bus_keys import write_credentials
    from attestream.installation.people import check_name

    place = installed(session)
    now = int(time.time())
    expires_at = now + max(1, lifetime // 1000) if lifetime else 0
    made = issue_identity(place, Role(role), check_name(name), now=now, expires_at=expires_at)
    path = output if output is not None else place.credentials_directory / f"{role}.{name}.creds"
    try:
        write_credentials(made, path)
    except OSError as error:
        raise ConfigError(f"{path} can not be written: {error}") from error
    if as_json:
        write_json({"credentials": str(path), "bus_key": made.key.public, "expires_at": expires_at})
        return
    click.echo(f"made {path}")
