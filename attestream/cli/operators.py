"""The command ``operators``: people and programs that work with an installation, and what each may do."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attestream.cli import output
from attestream.cli.durations import duration
from attestream.cli.keys import installed
from attestream.cli.output import write_json
from attestream.cli.publishing import hand_in
from attestream.cli.session import Session, complete, json_option, pass_session
from attestream.errors import AttestreamError, ConfigError
from schemas.roles import TENANTS, Role

if TYPE_CHECKING:
    from attestream.installation.places import Installation
    from schemas.trust import Roster, RosterKey


@click.group()
def operators() -> None:
    """Add people, show and revoke them. All but `list` needs the installation's root key on this machine."""


@operators.command()
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in TENANTS]), required=True, help="What NAME may do.")
@click.option("--lifetime", default=None, callback=duration, help="How long that holds, for example 90d; default: for ever.")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Directory to write, which must be new or empty; default: NAME in the installation's own.",
)
@json_option
@pass_session
def add(session: Session, name: str, role: str, lifetime: int | None, target: Path | None, as_json: bool) -> None:
    """Make the credentials of NAME, a person or a program: one directory, to be handed over and then removed here."""
    from attestream.installation.staff import add_person

    place = _newest(session)
    directory = (target or place.operator(name)).absolute()
    by, urls = _who(session, place), session.urls()
    made = add_person(place, Role(role), name, urls, by=by, now_ms=_now(), lifetime_ms=lifetime or 0, directory=directory)
    said = complete(hand_in(session, place))
    if as_json:
        write_json({"made": str(directory), "operator": _entry(made), "by": by, "notes": [said]})
        return
    click.echo(f"made {directory}")
    click.echo(f"{name} is {role}{f' until {_moment(made.not_after)}' if made.not_after else ''}; {said}")


@operators.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List everybody who was ever added, and how many people a policy needs."""
    roster = _roster(session)
    from attestream.installation.staff import people

    entries = [_entry(key) for key in people(roster)]
    if as_json:
        write_json({"operators": entries, "policy_approvals": roster.policy_approvals, "roster": roster.version})
        return
    output.table(
        ("NAME", "ROLE", "KEY", "SINCE", "STATUS"),
        [[each["name"], each["role"], each["key"], _moment(each["since"]), each["status"]] for each in entries],
    )
    needed = "two people: its author and one who approves it" if roster.policy_approvals > 1 else "its author alone"
    output.note(f"a new version of a policy needs {needed}")


@operators.command()
@click.argument("name")
@json_option
@pass_session
def revoke(session: Session, name: str, as_json: bool) -> int:
    """End what NAME may do, at once: connections are closed, and commands that wait are not executed any more."""
    from attestream.installation.staff import revoke_person

    place = _newest(session)
    by, urls = _who(session, place), session.urls()
    ended = revoke_person(place, name, by=by, now_ms=_now())
    notes, left = complete(_ended(session, place, ended, urls))
    if as_json:
        write_json({"revoked": [_entry(key) for key in ended], "by": by, "notes": notes, "remains": left})
    else:
        click.echo(f"{name} is revoked; {'; '.join(notes)}")
        for each in left:
            output.note(each)
    return 1 if left else 0


@operators.command()
@click.argument("number", type=click.Choice(["1", "2"]), required=False)
@json_option
@pass_session
def approvals(session: Session, number: str | None, as_json: bool) -> None:
    """Show, or with NUMBER set, how many people a new version of a policy needs: its author alone, or another one too."""
    if number is None:
        roster, notes = _roster(session), []
    else:
        from attestream.installation.staff import set_approvals

        place = _newest(session)
        roster = set_approvals(place, int(number), by=_who(session, place), now_ms=_now())
        notes = [complete(hand_in(session, place))]
    if as_json:
        write_json({"policy_approvals": roster.policy_approvals, "notes": notes})
        return
    click.echo("; ".join([str(roster.policy_approvals), *notes]))


def _newest(session: Session) -> Installation:
    """Return the installation, with the bus's roster if that is newer: a change of an older one would be refused."""
    place = installed(session)
    if place.root_key.exists():
        # Whoever connects keeps the newest in the installation; that the bus is down is said when it matters.
        with contextlib.suppress(AttestreamError):
            complete(_roster_of_bus(session))
    return place


def _roster(session: Session) -> Roster:
    from attestream.installation.places import Installation
    from attestream.installation.roster import load_roster

    place = Installation(session.directory().absolute())
    return load_roster(place) if place.roster.exists() else complete(_roster_of_bus(session))


async def _roster_of_bus(session: Session) -> Roster:
    async with session.client() as client:
        return client.bus.trust.keyring.roster


async def _ended(
    session: Session, place: Installation, ended: list[RosterKey], urls: list[str]
) -> tuple[list[str], list[str]]:
    """Have the bus end what ``ended`` could do; return what was done and what remains to be done, for people."""
    from attestream.installation.staff import disconnect

    said = await hand_in(session, place)
    try:
        await disconnect(place, ended, urls)
    except AttestreamError as error:
        until = max(key.not_after for key in ended)
        span = f"until {_moment(until)}" if until and all(key.not_after for key in ended) else "for ever"
        remains = (
            f"nothing that {ended[0].name} signs counts any more, but the identity on the bus still connects, {span}: "
            f"{error.message}; give this command where the bus's own credentials are, or `attestream keys rotate "
            f"{ended[0].role} --only bus --at-once`"
        )
        return [said], [remains]
    return [said, "the identity on the bus is void"], []


def _who(session: Session, place: Installation) -> str:
    """Return who gives this command: by their name in the roster, else ``user@host``."""
    from attestream.client.commands import actor
    from attestream.installation.roster import load_roster
    from attestream.signing import Signer

    path = session.signing_key()
    if path is not None:
        try:
            own = Signer.load(path).key_id
        except ConfigError:
            return actor()
        for key in load_roster(place).keys:
            if key.key_id == own:
                return key.name
    return actor()


def _entry(key: RosterKey) -> dict[str, Any]:
    """Return what is shown of a person; times are in Unix milliseconds, 0 for none."""
    if key.revoked_at:
        status = f"revoked {_moment(key.revoked_at)}"
    elif key.not_after and key.not_after <= _now():
        status = f"ended {_moment(key.not_after)}"
    else:
        status = f"until {_moment(key.not_after)}" if key.not_after else "counts"
    return {
        "name": key.name,
        "role": str(key.role),
        "key": key.key_id,
        "bus_key": key.bus_key,
        "since": key.not_before,
        "until": key.not_after,
        "revoked_at": key.revoked_at,
        "changed_by": key.changed_by,
        "status": status,
    }


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


def _now() -> int:
    return time.time_ns() // 1_000_000
