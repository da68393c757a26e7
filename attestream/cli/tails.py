"""The commands ``events`` and ``revocations``: following streams."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attestream.cli import durations, output
from attestream.cli.session import Session, complete, json_option, pass_session
from attestream.errors import ConfigError
from schemas.events import Event, EventKind

if TYPE_CHECKING:
    from attestream.client.subscription import Rejected
    from attestream.signing import TrustedKeys


def _checked_durable(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    if name and not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64):
        raise click.BadParameter("1-64 characters of A-Z a-z 0-9 _ -")
    return name


_durable = click.option(
    "--durable",
    default="",
    metavar="NAME",
    callback=_checked_durable,
    help="Keep the place in the stream under this name: what was printed is not printed again.",
)
_count = click.option("--count", type=click.IntRange(1), default=None, help="End after so many.")
_from_start = click.option("--from-start", is_flag=True, help="Begin with everything that is stored.")


@click.group()
def events() -> None:
    """Follow what happens."""


@events.command("tail")
@_from_start
@click.option(
    "--since", callback=durations.moment, default=None, help="Begin with a moment: 10m (ago), or 2026-01-31T12:00Z."
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind.value for kind in EventKind]),
    multiple=True,
    help="Only this kind; may be repeated.",
)
@click.option("--agent", "agent_id", default="", metavar="ID", help="Only about this agent.")
@_durable
@_count
@json_option
@pass_session
def tail_events(
    session: Session,
    from_start: bool,
    since: int | None,
    kinds: tuple[str, ...],
    agent_id: str,
    durable: str,
    count: int | None,
    as_json: bool,
) -> None:
    """Print events as they come; Ctrl-C ends it."""
    if from_start and since is not None:
        raise click.UsageError("--from-start and --since exclude each other")
    if durable and since is not None:
        raise click.UsageError("--durable begins with all that is stored and then keeps its place; leave out --since")

    async def follow() -> None:
        async with session.client() as client:
            printed = 0
            async for item in client.events(
                durable,
                kinds=[EventKind(kind) for kind in kinds],
                agent_id=agent_id,
                from_start=from_start,
                since=since or 0,
                on_rejected=_complain,
            ):
                _print_event(item.event, as_json=as_json)
                await item.ack()
                printed += 1
                if printed == count:
                    return

    complete(follow())


@click.group()
def revocations() -> None:
    """Follow revocations."""


@revocations.command("tail")
@_from_start
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help=("Directory of the public keys (*.pem) whose revocations are believed; default: the roster's notifiers."),
)
@_durable
@_count
@json_option
@pass_session
def tail_revocations(
    session: Session, from_start: bool, keys: Path | None, durable: str, count: int | None, as_json: bool
) -> None:
    """Print verified revocations as they come; Ctrl-C ends it. What no trusted key has signed is reported, not printed."""
    trusted = _trusted(session, keys)

    async def follow() -> None:
        async with session.client(trusted) as client:
            printed = 0
            async for item in client.revocations(durable, from_start=from_start, on_rejected=_complain):
                revocation = item.revocation
                if as_json:
                    output.write_json({**output.plain(revocation), "key_id": item.key_id, "sequence": item.sequence})
                else:
                    output.line(
                        f"{moment(revocation.at)}  ",
                        output.standing(revocation.standing),
                        f"  {revocation.agent_id}",
                        f"  {output.findings(revocation.findings)}  (signed by {item.key_id})",
                    )
                await item.ack()
                printed += 1
                if printed == count:
                    return

    complete(follow())


def _trusted(session: Session, keys: Path | None) -> TrustedKeys | None:
    """Return the keys that are believed instead of those of the roster, where there are any."""
    from attestream.installation.places import Installation
    from attestream.signing import TrustedKeys

    if keys is None and session.trust().checked:
        return None
    directory = keys if keys is not None else Installation(session.directory()).trusted_keys
    if keys is None and not directory.is_dir():
        raise ConfigError(
            "revocations can not be verified: no trusted keys are known",
            remedy="Give the directory with the notifier's public key: `--keys DIR`.",
        )
    trusted = TrustedKeys.from_directory(directory)
    if not trusted.key_ids:
        raise ConfigError(f"{directory} holds no *.pem file", remedy="Put the notifier's public key there.")
    return trusted


def _complain(rejected: Rejected) -> None:
    output.note(f"rejected: message {rejected.sequence} on {rejected.subject}: {rejected.error.message}")


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        output.write_json(event)
        return
    who = f"by {event.actor}" if event.actor else ""
    details = [event.policy, event.detail, who, output.findings(event.findings)]
    output.line(
        f"{moment(event.at)}  {event.kind:<16}  {event.agent_id}  ",
        output.standing(event.standing),
        "  " + "  ".join(detail for detail in details if detail),
    )


def moment(at: int) -> str:
    """Return Unix milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
