"""The commands ``agents``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from attestream.cli import exits, output
from attestream.cli.durations import ago, duration, shown
from attestream.cli.session import Session, complete, json_option, pass_session
from schemas.commands import AddAgent, Attestation, Command, DeleteAgent, StartAgent, StopAgent, UpdateAgent
from schemas.events import Standing

if TYPE_CHECKING:
    from attestream.client.forgotten import Forgotten
    from attestream.client.standing import AgentView, Fleet

F = TypeVar("F", bound=Callable[..., Any])

_NAMED = 20
"""Agents that a remark names."""

_LEFT: Final = {
    "known": "a verifier has it, or the record does not say that it was added",
    Standing.FAILED: "it had failed; look into it, then `attestream agents add` gives it its next chance",
    Standing.STOPPED: "it was stopped; `attestream agents add` has it attested again",
    Standing.UNKNOWN: "it may have failed: an event about it is not believed; look into it, then `attestream agents add`",
}
"""Why `rebuild` does not add an agent."""

_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)


def _attestation_options(function: F) -> F:
    for option in (
        click.option(
            "--lease", callback=duration, default=None, help="Life of a result; default: three intervals, at least 30s."
        ),
        click.option("--interval", callback=duration, default="30s", show_default=True, help="Time between attestations."),
    ):
        function = option(function)
    return function


@click.group()
def agents() -> None:
    """Put agents under attestation and see how they stand."""


@agents.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--policy", default="", metavar="NAME[@VERSION]", help="Policy to attest by.")
@_attestation_options
@click.option(
    "--from",
    "file",
    type=click.File("r", encoding="utf-8"),
    default=None,
    metavar="FILE",
    help="Add all agents in FILE (- for standard input): an id per line, CSV (id,policy,interval), or JSON lines.",
)
@json_option
@pass_session
def add(
    session: Session, ids: tuple[str, ...], policy: str, interval: int, lease: int | None, file: TextIO | None, as_json: bool
) -> int:
    """Put enrolled agents under attestation."""
    from attestream.cli import bulk

    if bool(ids) == (file is not None):
        raise click.UsageError("give either agent ids or --from FILE")
    default = Attestation(policy=policy, interval_ms=interval, lease_ms=lease or 0)
    wanted = bulk.read(file, default) if file is not None else [(agent_id, default) for agent_id in ids]
    if any(not attestation.policy for _, attestation in wanted):
        raise click.UsageError("no policy: give --policy NAME[@VERSION]")
    return _send(session, _attested(AddAgent, wanted), "added", as_json=as_json)


@agents.command()
@_ids
@click.option("--policy", required=True, metavar="NAME[@VERSION]", help="Policy to attest by.")
@_attestation_options
@json_option
@pass_session
def update(session: Session, ids: tuple[str, ...], policy: str, interval: int, lease: int | None, as_json: bool) -> int:
    """Change how agents are attested; a failed agent gets its next chance."""
    wanted = [(agent_id, Attestation(policy=policy, interval_ms=interval, lease_ms=lease or 0)) for agent_id in ids]
    return _send(session, _attested(UpdateAgent, wanted), "updated", as_json=as_json)


@agents.command()
@_ids
@json_option
@pass_session
def stop(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """Pause attestation; the results lapse."""
    return _send(session, _plain(StopAgent, ids), "stopped", as_json=as_json)


@agents.command()
@_ids
@json_option
@pass_session
def start(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """Resume attestation of stopped or failed agents, from the beginning of their logs."""
    return _send(session, _plain(StartAgent, ids), "started", as_json=as_json)


@agents.command()
@_ids
@json_option
@pass_session
def delete(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """End attestation and forget the agents' state. Enrolments stay: see `attestream enrolments`."""
    return _send(session, _plain(DeleteAgent, ids), "deleted", as_json=as_json)


@agents.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everybody", is_flag=True, help="All that `agents list` says nobody attests.")
@json_option
@pass_session
def rebuild(session: Session, ids: tuple[str, ...], everybody: bool, as_json: bool) -> int:
    """Add agents again that an old database has forgotten, as the record says.

    For verifiers whose database was restored from a backup older than the agents. Nobody is trusted by this: each agent is
    appraised anew. Those that had failed or were stopped are left to you.
    """
    from attestream.cli import bulk

    if bool(ids) == everybody:
        raise click.UsageError("give either agent ids or --all")
    known = {each.agent_id: each for each in complete(_forgotten(session))}
    left = {agent_id: _LEFT["known"] for agent_id in ids if agent_id not in known}
    wanted = [each for each in known.values() if everybody or each.agent_id in ids]
    left |= {each.agent_id: _LEFT[each.standing] for each in wanted if each.ended}
    wanted = [each for each in wanted if not each.ended]
    for agent_id, why in left.items():
        output.note(f"{agent_id} is left as it is: {why}")
    for each in wanted:
        if each.untold:
            every = shown(each.attestation.interval_ms)
            output.note(f"the record does not tell how often {each.agent_id} was attested: from now on every {every}")
    commands = _attested(AddAgent, [(each.agent_id, each.attestation) for each in wanted])
    code = bulk.send(session, commands, "rebuilt", as_json=as_json, beside={"left": left})
    return code or (exits.REFUSED if left else exits.OK)


@agents.command("list")
@click.option(
    "--standing", "standings", type=click.Choice([each.value for each in Standing]), multiple=True, help="Only these."
)
@json_option
@pass_session
def list_(session: Session, standings: tuple[str, ...], as_json: bool) -> None:
    """List all agents and how they stand."""
    fleet = complete(_fleet(session))
    chosen = [each for each in fleet.agents if not standings or each.standing in standings]
    if as_json:
        answered = {"verifier": fleet.verifier, "registrar": fleet.registrar, "forgotten": fleet.forgotten}
        output.write_json({"agents": chosen} | answered)
        return
    if fleet.forgotten:
        names = " ".join(fleet.forgotten[:_NAMED]) + (" ..." if len(fleet.forgotten) > _NAMED else "")
        output.note(f"nobody attests {len(fleet.forgotten)} agents that were added: {names}")
        output.note("the verifiers' database is older than the record; see `attestream agents rebuild`")
    if not fleet.verifier:
        output.note("no verifier answers: only results that are still valid and enrolments are shown")
    if not fleet.registrar:
        output.note("the registrar does not answer: agents that are only enrolled are missing")
    now = int(time.time() * 1000)
    output.table(
        ["AGENT", "STANDING", "POLICY", "INTERVAL", "LAST GOOD", "WORKER", "FINDINGS"],
        [
            (
                each.agent_id,
                output.standing(each.standing),
                each.policy or "-",
                shown(each.interval_ms) if each.interval_ms else "-",
                ago(each.last_at, now) if each.last_at else "-",
                each.worker or "-",
                output.findings(each.findings),
            )
            for each in chosen
        ],
    )


@agents.command()
@click.argument("agent_id", metavar="ID")
@click.option("--check", is_flag=True, help="Exit with 4 unless the agent is trusted now.")
@json_option
@pass_session
def show(session: Session, agent_id: str, check: bool, as_json: bool) -> int:
    """Show one agent."""
    found = complete(_agent(session, agent_id))
    if as_json:
        output.write_json(found)
    else:
        _print(found)
    return exits.NOT_TRUSTED if check and found.standing is not Standing.TRUSTED else exits.OK


def _print(found: AgentView) -> None:
    now = int(time.time() * 1000)
    output.line("agent         ", found.agent_id)
    output.line("standing      ", output.standing(found.standing))
    if found.enrolled_at:
        output.line("enrolled      ", f"{ago(found.enrolled_at, now)}, number {found.enrolment}, EK by {found.ek_trust}")
    if found.policy:
        output.line("policy        ", found.policy)
    if found.interval_ms:
        output.line("interval      ", shown(found.interval_ms))
    if found.last_at:
        output.line("last good     ", f"{ago(found.last_at, now)}, {found.attestations} since its worker took over")
    if found.expires_at:
        output.line("result lapses ", f"in {max(0, found.expires_at - now) / 1000:.1f}s")
    if found.ima_entries:
        output.line("IMA entries   ", f"{found.ima_entries} proven")
    if found.worker:
        output.line("worker        ", found.worker)
    for finding in found.findings:
        output.line("finding       ", f"{finding.code} {finding.culprit}: {finding.message} {finding.remedy}")


def _attested(kind: type[AddAgent | UpdateAgent], wanted: list[tuple[str, Attestation]]) -> list[Command]:
    from attestream.client.commands import actor, new_command_id

    who = actor()
    return [
        kind(command_id=new_command_id(), agent_id=agent_id, attestation=attestation, actor=who)
        for agent_id, attestation in wanted
    ]


def _plain(kind: type[StopAgent | StartAgent | DeleteAgent], ids: tuple[str, ...]) -> list[Command]:
    from attestream.client.commands import actor, new_command_id

    who = actor()
    return [kind(command_id=new_command_id(), agent_id=agent_id, actor=who) for agent_id in ids]


def _send(session: Session, commands: list[Command], done: str, *, as_json: bool) -> int:
    from attestream.cli import bulk

    return bulk.send(session, commands, done, as_json=as_json)


async def _fleet(session: Session) -> Fleet:
    async with session.client() as client:
        return await client.fleet(timeout_s=session.timeout_s)


async def _forgotten(session: Session) -> list[Forgotten]:
    async with session.client() as client:
        return await client.forgotten(timeout_s=session.timeout_s)


async def _agent(session: Session, agent_id: str) -> AgentView:
    async with session.client() as client:
        return await client.agent(agent_id, timeout_s=session.timeout_s)
