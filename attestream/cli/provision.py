"""The command ``provision``: streams and buckets, made by who may."""

from __future__ import annotations

import click

from attestream.cli.session import Session, complete, pass_session


@click.command()
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="Servers that keep each stream; 3 for a cluster. More than a stream has raises its number.",
)
@pass_session
def provision(session: Session, replicas: int) -> None:
    """Make the streams and buckets of a bus, or bring those that are there up to date.

    With the credentials of the provisioner: those in the data directory, or --credentials. `attestream up` does this itself.
    """
    from attestream import config
    from attestream.bus import topology
    from attestream.installation.places import Installation
    from schemas.roles import Role

    place = Installation(session.directory())
    named = session.config_file() or (place.config_file if place.exists else None)
    loaded = config.load(named, session.environment)
    if session.credentials is None and place.credentials(Role.PROVISIONER).exists():
        session = session._replace(credentials=place.credentials(Role.PROVISIONER))
    work = topology.provision(
        session.bus().settings("attestream-cli"),
        replicas=replicas,
        sizes=loaded.limits.sizes(),
        ages=loaded.retention.ages(),
    )
    complete(work)
    click.echo("the streams are as this version declares them")
