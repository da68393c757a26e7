"""The commands ``policy``."""

from __future__ import annotations

import json
import time
from typing import BinaryIO

import click

from attestream.cli import output
from attestream.cli.durations import ago
from attestream.cli.output import write_json
from attestream.cli.policy_create import create
from attestream.cli.policy_documents import convert, sign, verify
from attestream.cli.policy_review import check, diff
from attestream.cli.session import Session, complete, json_option, pass_session
from schemas.commands import PolicyRecord

_file = click.argument("file", type=click.File("rb"), metavar="FILE")


@click.group()
def policy() -> None:
    """Make, check, publish and read policies. A version never changes."""


for _command in (create, convert, sign, verify, diff, check):
    policy.add_command(_command)


@policy.command()
@click.argument("name")
@_file
@json_option
@pass_session
def push(session: Session, name: str, file: BinaryIO, as_json: bool) -> None:
    """Check the policy document in FILE and publish it as the next version of NAME.

    The document of the newest version makes no new one.
    """
    reference = complete(_push(session, name, file.read()))
    if as_json:
        write_json({"policy": reference})
    else:
        click.echo(f"published {reference}")


@policy.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List every version of every policy."""
    records = complete(_records(session))
    if as_json:
        write_json(records)
        return
    now = int(time.time() * 1000)
    output.table(
        ["POLICY", "ENTRIES", "PUBLISHED", "BY", "SHA-256"],
        [
            (f"{record.name}@{record.version}", str(record.entries), ago(record.at, now), record.actor, record.digest[:16])
            for record in records
        ],
    )


@policy.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@json_option
@pass_session
def show(session: Session, reference: str, as_json: bool) -> None:
    """Print the document of a policy, the newest version unless one is given."""
    record, document = complete(_find(session, reference))
    if as_json:
        write_json({"record": record, "document": json.loads(document)})
        return
    output.note(f"{record.name}@{record.version}, {record.entries} reference values, sha256 {record.digest}")
    click.echo(document, nl=not document.endswith(b"\n"))


@policy.command()
@_file
@click.option("--ascii", "ascii_form", is_flag=True, help="FILE is ascii_runtime_measurements, not the binary log.")
@click.option("--exclude", "excludes", multiple=True, metavar="REGEX", help="Paths that may be anything; may be repeated.")
@click.option("--description", default="", help="What the policy is for.")
@json_option
def learn(file: BinaryIO, ascii_form: bool, excludes: tuple[str, ...], description: str, as_json: bool) -> None:
    """Print a policy that allows what the IMA log FILE of a machine in good order shows."""
    from attestream.reference.collected import Collected
    from attestream.reference.lists import add_measurements

    into = Collected(excludes=dict.fromkeys(excludes))
    add_measurements(file.read(), into, ascii_form=ascii_form or None)
    made = into.document(description=description)
    click.echo(json.dumps(made, indent=None if as_json else 2))


async def _push(session: Session, name: str, document: bytes) -> str:
    from attestream.client import policies

    policies.check_name(name)
    async with session.client() as client:
        return await client.push_policy(name, document, timeout_s=session.timeout_s)


async def _records(session: Session) -> list[PolicyRecord]:
    async with session.client() as client:
        return await client.policies()


async def _find(session: Session, reference: str) -> tuple[PolicyRecord, bytes]:
    async with session.client() as client:
        return await client.policy(reference)
