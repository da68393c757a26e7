"""The command ``keys``: which keys an installation has, and how they are replaced while everything goes on."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from attestream.cli import output
from attestream.cli.durations import duration, milliseconds, shown
from attestream.cli.session import Session, complete, json_option, no_installation, pass_session
from schemas.roles import GRANTS, Role

if TYPE_CHECKING:
    from attestream.installation.places import Installation

BUS_OPERATOR: Final = "bus-operator"
"""Not the role of people called operator: the key that signs the accounts of the bus."""
ROOT: Final = "root"
CA: Final = "ca"
NONCES: Final = "cluster-secret"
SYSTEM: Final = "system"
OTHERS: Final = (ROOT, CA, NONCES, SYSTEM, BUS_OPERATOR)
"""What is replaced besides the keys of roles."""
OVERLAPS: Final = {ROOT: "365d", CA: "30d"}
ROLES: Final = tuple(str(granted.role) for granted in GRANTS)


@click.group()
def keys() -> None:
    """Show and replace the keys of this installation."""


@keys.command()
@json_option
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show every key, which of them count, and which private keys are on this machine."""
    from attestream.installation.inventory import issuers, offline, signers

    place = installed(session)
    signing, issuing, away = signers(place), issuers(place), offline(place)
    if as_json:
        output.write_json({"signing": signing, "issuing": issuing, "offline": away})
        return
    output.table(
        ("signs as", "name", "key", "counts", "private key here"),
        [[key["role"], key["name"], key["key"], _span(key), _yes(key["here"])] for key in signing],
    )
    output.table(
        ("issues on the bus", "key", "counts", "private key here"),
        [[key["role"], key["key"][:12] + "...", _span(key), _yes(key["here"])] for key in issuing],
    )
    output.table(("can be kept away", "file", "here"), [[key["what"], key["file"], _yes(key["here"])] for key in away])


@keys.command()
@click.argument("what", type=click.Choice([*ROLES, *OTHERS]), metavar=f"ROLE|{'|'.join(OTHERS)}")
@click.option(
    "--overlap",
    default=None,
    callback=duration,
    help="How long what the old key vouches for still counts.  [default: 24h; root: 365d; ca: 30d]",
)
@click.option("--at-once", is_flag=True, help="The old key has become known to others: nothing that it vouches for counts.")
@click.option("--only", type=click.Choice(["bus", "signing"]), default=None, help="Replace only one of the role's two keys.")
@json_option
@pass_session
def rotate(session: Session, what: str, overlap: int | None, at_once: bool, only: str | None, as_json: bool) -> None:
    """Replace the keys of a role: the one that issues its identities on the bus, and the one that signs what it says.

    The role's own identity is issued anew; start its service again to use it. The others:

    \b
    root            signs the roster; the old key vouches for the new one
    ca              the certificate authority, in two steps: the same command
                    once more when ca.pem is wherever it is used
    cluster-secret  what nonces are made from
    system          issues identities of the bus's own account
    bus-operator    signs the bus's accounts, in two steps: the same command
                    once more when every server was started again
    """
    place = installed(session)
    if only and what in OTHERS:
        raise click.UsageError(f"{what} has one key: --only is for roles")
    if at_once and what in (ROOT, CA, BUS_OPERATOR):
        raise click.UsageError(f"{what} is replaced step by step: see docs/security/rotation.md for when it was stolen")
    if overlap is not None and what in (NONCES, BUS_OPERATOR):
        raise click.UsageError(f"{what} has no overlap to choose")
    span_s = 0 if at_once else max(1, (overlap or milliseconds(OVERLAPS.get(what, "24h"))) // 1000)
    _tell(_rotated(session, place, what, span_s, only), as_json=as_json)
    if not as_json and at_once and what != NONCES and only != "bus":
        output.note("`attestream keys publish` asks a registrar whether it has the new roster")
    if not as_json and span_s and what not in (CA, NONCES, BUS_OPERATOR):
        output.note(f"the old keys count for {shown(span_s * 1000)} more; `attestream keys prune` removes them afterwards")


def _rotated(session: Session, place: Installation, what: str, span_s: int, only: str | None) -> list[str]:
    from attestream.installation import procedures

    match what:
        case "root":
            return complete(procedures.rotate_root_key(place, session.urls(), overlap_s=span_s))
        case "ca":
            return procedures.rotate_ca(place, overlap_s=span_s)
        case "cluster-secret":
            return procedures.replace_cluster_secret(place, at_once=not span_s)
        case "system":
            return complete(procedures.rotate_system(place, session.urls(), overlap_s=span_s))
        case "bus-operator":
            return complete(procedures.rotate_bus_operator(place, session.urls()))
    return complete(procedures.rotate_role(place, Role(what), session.urls(), overlap_s=span_s, only=only))


@keys.command()
@json_option
@pass_session
def prune(session: Session, as_json: bool) -> None:
    """Remove keys whose time is over, and with them what they have issued: from the bus's accounts, the roster, ca.pem."""
    from attestream.installation import procedures

    _tell(complete(procedures.prune(installed(session), session.urls())), as_json=as_json)


@keys.command()
@json_option
@pass_session
def publish(session: Session, as_json: bool) -> None:
    """Give this installation's roster to the bus, where every process looks for it, and ask a registrar if it has it."""
    from attestream.cli.publishing import hand_in

    _tell([complete(hand_in(session, installed(session), again=True))], as_json=as_json)


@keys.command()
@json_option
@pass_session
def refresh(session: Session, as_json: bool) -> None:
    """Bring the bus's accounts up to what this version lets each role do. `attestream up` does so by itself."""
    from attestream.installation.refreshing import refresh_accounts

    changed = complete(refresh_accounts(installed(session), session.urls()))
    done = [f"account {name}: has the permissions of this version" for name in changed]
    _tell(done or ["every account has the permissions of this version"], as_json=as_json)


def installed(session: Session) -> Installation:
    """Return the installation that a command is about.

    :raises ConfigError: there is none.
    """
    from attestream.installation.places import Installation

    place = Installation(session.directory().absolute())
    if not place.operator_token.exists():
        raise no_installation(place)
    return place


def _tell(done: list[str], *, as_json: bool) -> None:
    if as_json:
        output.write_json({"done": done})
        return
    for line in done:
        click.echo(line)


def _span(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {_moment(key['revoked_at'])}"
    if not key["until"]:
        return "yes"
    return f"until {_moment(key['until'])}" if key["until"] > time.time() else f"ended {_moment(key['until'])}"


def _moment(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%MZ")


def _yes(here: bool) -> str:
    return "yes" if here else "no"
