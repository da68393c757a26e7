"""The commands ``workers``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from attestream.cli import output
from attestream.cli.session import Session, complete, json_option, pass_session

if TYPE_CHECKING:
    from schemas.commands import WorkerStatus


@click.group()
def workers() -> None:
    """See verifier workers, empty them before they are stopped, and share the work out."""


@workers.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """Show the workers that are alive, what they own and how late they are."""
    found = complete(_list(session))
    if as_json:
        output.write_json(found)
        return
    columns = ("WORKER", "STATE", "PARTITIONS", "AGENTS", "ATTESTATIONS/S", "LATE", "IN FLIGHT", "VERSION", "SINCE")
    output.table(columns, [_row(status) for status in found])


@workers.command()
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Do not wait until it owns nothing.")
@json_option
@pass_session
def drain(session: Session, name: str, no_wait: bool, as_json: bool) -> None:
    """Have worker NAME give its partitions to the others, a few at a time, so that it can be stopped.

    It takes none again until it is undrained or started again.
    """
    status = complete(_drain(session, name, drain=True, wait=not no_wait))
    left = len(status.partitions) if status is not None else 0
    if as_json:
        output.write_json({"worker": name, "draining": True, "partitions": left})
    else:
        click.echo(f"{name} gives away {left} partitions" if left else f"{name} owns nothing any more: it can be stopped")


@workers.command()
@click.argument("name")
@json_option
@pass_session
def undrain(session: Session, name: str, as_json: bool) -> None:
    """Let worker NAME take partitions again."""
    complete(_drain(session, name, drain=False, wait=False))
    if as_json:
        output.write_json({"worker": name, "draining": False})
    else:
        click.echo(f"{name} takes part again")


@workers.command()
@json_option
@pass_session
def rebalance(session: Session, as_json: bool) -> None:
    """Share the partitions out by the attestations that their agents need now."""
    moves = complete(_rebalance(session))
    if as_json:
        output.write_json({"moves": moves})
    else:
        click.echo(f"{moves} partitions move" if moves else "the work is shared out evenly already")


async def _list(session: Session) -> list[WorkerStatus]:
    async with session.client() as client:
        return await client.workers()


async def _drain(session: Session, name: str, *, drain: bool, wait: bool) -> WorkerStatus | None:
    async with session.client() as client:
        if drain:
            return await client.drain_worker(name, wait=wait, timeout_s=session.timeout_s)
        return await client.undrain_worker(name, timeout_s=session.timeout_s)


async def _rebalance(session: Session) -> int:
    async with session.client() as client:
        return await client.rebalance_workers(timeout_s=session.timeout_s)


def state(status: WorkerStatus) -> str:
    """Return the state of a worker in one word."""
    if status.draining:
        return "draining" if status.partitions else "drained"
    return "overloaded" if status.overloaded else "working"


def _row(status: WorkerStatus) -> tuple[str, ...]:
    since = datetime.fromtimestamp(status.started_at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        status.worker,
        state(status),
        str(len(status.partitions)),
        str(status.agents),
        f"{status.rate:.1f}",
        f"{status.lateness_ms} ms",
        str(status.in_flight),
        status.version,
        since,
    )
