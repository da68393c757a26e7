"""The commands ``enrolments``."""

from __future__ import annotations

import click

from attestream.cli.output import write_json
from attestream.cli.session import Session, complete, json_option, pass_session


@click.group()
def enrolments() -> None:
    """Remove enrolments. `agents list` shows who is enrolled."""


@enrolments.command()
@click.argument("agent_id", metavar="ID")
@json_option
@pass_session
def delete(session: Session, agent_id: str, as_json: bool) -> None:
    """Remove the enrolment of agent ID, so that the id is free for another TPM."""
    complete(_delete(session, agent_id))
    if as_json:
        write_json({"deleted": agent_id})
    else:
        click.echo(f"the enrolment of {agent_id} is removed")


async def _delete(session: Session, agent_id: str) -> None:
    async with session.client() as client:
        await client.delete_enrolment(agent_id, timeout_s=session.timeout_s)
