"""The command ``status``."""

from __future__ import annotations

from typing import Any

import click

from attestream.cli import exits, output
from attestream.cli.session import Session, complete, json_option, pass_session


@click.command()
@json_option
@pass_session
def status(session: Session, as_json: bool) -> int:
    """Show the cluster at a glance: bus, services, workers and how many agents stand how.

    The exit code is 3 when the registrar or every verifier is silent.
    """
    report = complete(_report(session))
    if as_json:
        output.write_json(report)
    else:
        _print(report)
    return exits.OK if report["registrar"] and report["verifier"] else exits.NO_ANSWER


async def _report(session: Session) -> dict[str, Any]:
    from attestream.client.standing import counts

    async with session.client() as client:
        version = client.bus.nc.connected_server_version
        fleet = await client.fleet(timeout_s=session.timeout_s)
        return {
            "bus": str(client.bus.nc.connected_url.geturl()) if client.bus.nc.connected_url else "",
            "server": f"{version.major}.{version.minor}.{version.patch}",
            "registrar": fleet.registrar,
            "verifier": fleet.verifier,
            "workers": output.plain(await client.workers()),
            "notifier_keys": list(await client.published_keys()),
            "agents": len(fleet.agents),
            "standings": output.plain(counts(fleet.agents)),
        }


def _print(report: dict[str, Any]) -> None:
    output.line(f"bus        {report['bus']} (nats-server {report['server']})")
    output.line(f"registrar  {'answers' if report['registrar'] else 'NO ANSWER'}")
    output.line(f"verifier   {'answers' if report['verifier'] else 'NO ANSWER'}")
    output.line(f"notifier   signs with {', '.join(report['notifier_keys']) or 'no key yet'}")
    for worker in report["workers"]:
        output.line(
            f"worker     {worker['worker']}: {len(worker['partitions'])} partitions, {worker['agents']} agents, "
            f"{worker['attestations']} attestations, {worker['in_flight']} challenges in flight"
        )
    output.line(f"agents     {report['agents']}")
    for standing, number in report["standings"].items():
        if number:
            output.line("           ", output.standing(standing), f" {number}")
