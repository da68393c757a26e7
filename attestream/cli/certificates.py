"""The command ``certificates``: what the bus shows of itself, renewed without a restart, and who may vouch for TPMs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from attestream.cli import output
from attestream.cli.keys import installed
from attestream.cli.session import Session, json_option, pass_session
from attestream.errors import ConfigError


@click.group()
def certificates() -> None:
    """Show and renew the certificates of the bus; show those of TPM manufacturers."""


@certificates.command()
@json_option
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show the authority's and every server's certificate, and how long each is good."""
    from attestream.installation.renewal import SOON_DAYS, described

    found = described(installed(session), datetime.now(UTC))
    if as_json:
        output.write_json(found)
        return
    rows = [
        [each["name"], ", ".join(each["hosts"]), _day(each["not_after"]), str(each["days_left"]), each["file"]]
        for each in found
    ]
    output.table(("name", "for", "good until", "days left", "file"), rows)
    if any(each["days_left"] < SOON_DAYS for each in found[1:]):
        output.note("some end soon: `attestream certificates renew`")


@certificates.command()
@click.option("--host", "hosts", multiple=True, help="Name or address that they are good for; default: as before.")
@json_option
@pass_session
def renew(session: Session, hosts: tuple[str, ...], as_json: bool) -> None:
    """Issue new certificates to every server by the same authority.

    The bus of `attestream up` takes its own into use at once, and connections stay. Those of servers on other machines are
    to be copied there; then `nats-server --signal reload` on each.
    """
    from attestream.installation.renewal import reload_embedded
    from attestream.installation.renewal import renew as issue_anew

    place = installed(session)
    try:
        renewed = issue_anew(place, datetime.now(UTC), hosts=hosts)
    except OSError as error:
        raise ConfigError(f"the certificates can not be renewed: {error}") from error
    reloaded = reload_embedded(place)
    if as_json:
        made = [
            {"file": str(each.path), "hosts": each.hosts, "not_after": int(each.not_after.timestamp())} for each in renewed
        ]
        output.write_json({"renewed": made, "reloaded": reloaded})
        return
    for each in renewed:
        click.echo(f"renewed {each.path}, good until {each.not_after:%Y-%m-%d} for {', '.join(each.hosts)}")
    click.echo("the running bus reads it again" if reloaded else "no bus of `attestream up` runs here")
    if len(renewed) > 1:
        output.note("copy each server's files to its machine, and reload it there: nats-server --signal reload")


@certificates.command()
@click.argument("name")
@json_option
@pass_session
def client(session: Session, name: str, as_json: bool) -> None:
    """Issue a certificate that a client shows, for servers that demand one (`verify: true`)."""
    from attestream.installation.authority import Authority, Pair
    from attestream.installation.files import make_directory
    from attestream.installation.people import check_name

    place = installed(session)
    directory: Path = place.tls / "clients"
    pair = Pair(directory / f"{check_name(name)}.pem", directory / f"{name}.key")
    try:
        make_directory(directory)
        Authority(place.tls).issue(pair, name, [], datetime.now(UTC), purpose="client")
    except OSError as error:
        raise ConfigError(f"the certificate can not be written: {error}") from error
    if as_json:
        output.write_json({"certificate": str(pair.certificate), "key": str(pair.key)})
        return
    click.echo(f"made {pair.certificate} and {pair.key}")


@certificates.command()
@click.argument("names", nargs=-1, metavar="[MANUFACTURER]...")
@json_option
def manufacturers(names: tuple[str, ...], as_json: bool) -> None:
    """Show the CA certificates of TPM manufacturers that come with Attestream.

    The registrar trusts those of the manufacturers that its setting `ek_manufacturers` names.
    """
    from attestream.manufacturers import shipped

    known = shipped.manifest()
    rows = known.of(names or (shipped.ALL,))
    for row in rows:
        shipped.certificate(row)  # what is told of a file holds for it
    if as_json:
        output.write_json({"package": known.package, "collections": known.collection, "certificates": rows})
        return
    for row in rows:
        click.echo(f"{row.name}  ({row.manufacturer}, {row.key}, {row.not_before} to {row.not_after})")
        click.echo(f"  subject      {row.subject}")
        click.echo(f"  SHA-256      {row.sha256}")
        click.echo(f"  origin       {Path(row.path).name}; also in {', '.join(row.seen_in) or 'no collection'}")
        for line in row.notes:
            click.echo(f"  note         {line}")
    package = known.package
    output.note(f"all from {package.name} {package.version} of Debian; the registrar trusts those of `ek_manufacturers`")


def _day(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")
