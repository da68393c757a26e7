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
    """Check the policy document in FILE, plain or signed (`policy sign`), and publish it as the next version of NAME.

    The document of the newest version makes no new one. Where the installation asks for two people, the version is only
    proposed: somebody else has to approve it before it is used.
    """
    reference, usable = complete(_push(session, name, file.read()))
    if as_json:
        write_json({"policy": reference, "state": "approved" if usable else "proposed"})
    elif usable:
        click.echo(f"published {reference}")
    else:
        click.echo(f"proposed {reference}")
        output.note(f"not used before somebody else approves it: attestream policy approve {reference}")


_proposed = click.argument("reference", metavar="NAME@VERSION")
_digest = click.option(
    "--digest", default="", metavar="SHA256", help="Of the document that you looked at; default: that of the bus now."
)


@policy.command()
@_proposed
@_digest
@json_option
@pass_session
def approve(session: Session, reference: str, digest: str, as_json: bool) -> None:
    """Approve a version that somebody else has proposed: from now on it is used. Look at it first: `policy show`."""
    done = complete(_decide(session, reference, approve=True, digest=digest))
    _say(done, "approved", as_json=as_json)


@policy.command()
@_proposed
@_digest
@click.option("--reason", default="", help="For the record.")
@json_option
@pass_session
def reject(session: Session, reference: str, digest: str, reason: str, as_json: bool) -> None:
    """Reject a proposed version, or take back your own; it can not be approved any more."""
    done = complete(_decide(session, reference, approve=False, digest=digest, reason=reason))
    _say(done, "rejected", as_json=as_json)


@policy.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List every version of every policy, who has published it, and who has approved or rejected it."""
    records = complete(_records(session))
    if as_json:
        write_json(records)
        return
    now = int(time.time() * 1000)
    output.table(
        ["POLICY", "ENTRIES", "PUBLISHED", "BY", "STATE", "SHA-256"],
        [
            (
                f"{record.name}@{record.version}",
                str(record.entries),
                ago(record.at, now),
                record.actor,
                _state(record),
                record.digest[:16],
            )
            for record in records
        ],
    )


@policy.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@json_option
@pass_session
def show(session: Session, reference: str, as_json: bool) -> None:
    """Print the document of a policy, the newest version that is used unless one is given."""
    record, document = complete(_find(session, reference))
    if as_json:
        write_json({"record": record, "document": json.loads(document)})
        return
    numbers = f"{record.entries} reference values, sha256 {record.digest}"
    signed = f", signed by key {record.signed_by}" if record.signed_by else ""
    output.note(f"{record.name}@{record.version}, {_state(record)}, {numbers}{signed}")
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


async def _push(session: Session, name: str, document: bytes) -> tuple[str, bool]:
    from attestream.client import policies

    policies.check_name(name)
    async with session.client() as client:
        return await client.propose_policy(name, document, timeout_s=session.timeout_s)


async def _decide(session: Session, reference: str, *, approve: bool, digest: str, reason: str = "") -> str:
    async with session.client() as client:
        if approve:
            return await client.approve_policy(reference, digest=digest, timeout_s=session.timeout_s)
        return await client.reject_policy(reference, digest=digest, reason=reason, timeout_s=session.timeout_s)


def _say(reference: str, state: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"policy": reference, "state": state})
    else:
        click.echo(f"{state} {reference}")


def _state(record: PolicyRecord) -> str:
    return f"{record.state} by {record.decision.actor}" if record.decision is not None else str(record.state)


async def _records(session: Session) -> list[PolicyRecord]:
    async with session.client() as client:
        return await client.policies()


async def _find(session: Session, reference: str) -> tuple[PolicyRecord, bytes]:
    async with session.client() as client:
        return await client.policy(reference)
