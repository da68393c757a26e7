"""The commands ``evidence``: what verifiers have kept, as policies want it (``archive``)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from attestream.cli import durations, exits, output
from attestream.cli.documents import input_path, read
from attestream.cli.policy_review import read_layer
from attestream.cli.session import Session, complete, json_option, pass_session
from attestream.errors import MalformedError

if TYPE_CHECKING:
    from attestream.archive.files import Contents
    from attestream.archive.inspection import Documents
    from attestream.archive.reading import Kept
    from attestream.archive.replaying import Replayed
    from schemas.archive import ArchivedAppraisal
    from schemas.attestation import ImaDelta

DAY_MS: Final = 86_400_000

_number = click.argument("number", metavar="ID", type=click.IntRange(1))
_target = click.Path(dir_okay=False, path_type=Path)


@click.group()
def evidence() -> None:
    """Find, prove and replay evidence that was kept."""


class _Listed(NamedTuple):
    kept: list[Kept]
    more: bool
    rejected: list[str]


@evidence.command("list")
@click.argument("agent", default="")
@click.option("--since", callback=durations.moment, help="From a moment on: 10m (ago), or 2026-01-31T12:00Z.")
@click.option("--until", callback=durations.moment, help="Up to a moment.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Most lines.")
@json_option
@pass_session
def list_(session: Session, agent: str, since: int | None, until: int | None, limit: int, as_json: bool) -> int:
    """List evidence that was kept, of AGENT or of everybody; without AGENT and --since, that of the last day."""
    now = int(time.time() * 1000)
    if since is None and not agent:
        since = now - DAY_MS
    listed = complete(_listed(session, agent, since or 0, until or 0, limit))
    if as_json:
        output.write_json([_line(kept) for kept in listed.kept])
    else:
        output.table(
            ["ID", "AGENT", "WHEN", "VERDICT", "STANDING", "POLICY", "FINDINGS", "BYTES"],
            [
                (
                    str(kept.number),
                    kept.entry.agent_id,
                    durations.ago(kept.entry.at, now),
                    kept.entry.verdict,
                    str(kept.entry.standing),
                    kept.entry.policy,
                    " ".join(kept.entry.codes),
                    str(kept.entry.stored),
                )
                for kept in listed.kept
            ],
        )
    if listed.more:
        output.note(f"there are more than {limit}: ask with --since, or a higher --limit")
    for text in listed.rejected:
        output.note(text)
    return exits.REFUSED if listed.rejected else exits.OK


@evidence.command()
@_number
@click.option("--log", type=_target, help="Write the IMA log of the boot, as it was then, to this file.")
@click.option("--boot-log", type=_target, help="Write the boot log that came with the evidence to this file.")
@json_option
@pass_session
def show(session: Session, number: int, log: Path | None, boot_log: Path | None, as_json: bool) -> None:
    """Show what was kept under ID."""
    from attestream.archive.replaying import evidence_of
    from attestream.cli.documents import write

    kept, appraisal, whole = complete(_shown(session, number, with_log=log is not None))
    if as_json:
        output.write_json(_line(kept) | {"appraisal": appraisal})
    else:
        _describe(kept, appraisal)
    if log is not None:
        if whole is None:
            raise MalformedError("not all of the log of this boot is kept", remedy="Policies keep it with `logs`.")
        _store(whole.data, log)
    if boot_log is not None:
        write(evidence_of(appraisal).boot_log, boot_log)


@evidence.command()
@click.argument("target", metavar="ID|DIR")
@click.option("--policy", type=input_path, help="Ask what another policy would have said.")
@click.option("--layer", "layers", multiple=True, metavar="NAME@VERSION=FILE", help="A layer that --policy names.")
@click.option("--boot-policies", "modules", multiple=True, metavar="MODULE", help="Boot policies that the verifier had.")
@click.option("--output", "directory", type=click.Path(path_type=Path), help="Keep everything in a new directory.")
@click.option("--root", type=input_path, help="Root key (PEM) that must vouch for DIR; default: that in the configuration.")
@click.option("--unverified", is_flag=True, help="Replay DIR even if nothing proves where it comes from.")
@json_option
@pass_session
def replay(
    session: Session,
    target: str,
    policy: Path | None,
    layers: tuple[str, ...],
    modules: tuple[str, ...],
    directory: Path | None,
    root: Path | None,
    unverified: bool,
    as_json: bool,
) -> int:
    """Appraise kept evidence once more, by the code that the verifier runs, and compare the result bit for bit.

    It is that of ID, or in a directory that `export` or --output made: then nothing is asked of the bus. With --policy the
    agent is judged as if nothing had been proven before; then it exits with 4 when it would not have been trusted.
    """
    if Path(target).is_dir():
        appraisal, documents, earlier = _from_files(session, Path(target), root, unverified=unverified)
    else:
        appraisal, documents, earlier = complete(_fetched(session, _checked(target), directory))
    again = _judged(appraisal, documents, earlier, policy, layers, modules)
    same = again.identical or policy is not None
    if as_json:
        output.write_json(
            {"verdict": again.verdict, "kept": appraisal.verdict, "identical": again.identical, "findings": again.findings}
        )
    else:
        for finding in again.findings:
            text = f"{finding.severity} {finding.code} {finding.culprit}".rstrip()
            output.line(text, f": {finding.message} {finding.remedy}")
        click.echo(_sentence(again, appraisal, other=policy is not None))
    if policy is not None:
        return exits.OK if again.verdict == "pass" else exits.NOT_TRUSTED
    return exits.OK if same else exits.REFUSED


@evidence.command()
@_number
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@pass_session
def export(session: Session, number: int, directory: Path, as_json: bool) -> None:
    """Write everything that proves and replays ID into a new directory."""
    complete(_fetched(session, number, directory))
    if as_json:
        output.write_json({"id": number, "directory": str(directory)})
    else:
        click.echo(f"exported evidence {number} to {directory}")


def _judged(
    appraisal: ArchivedAppraisal,
    documents: Documents,
    earlier: ImaDelta | None,
    policy: Path | None,
    layers: tuple[str, ...],
    modules: tuple[str, ...],
) -> Replayed:
    from attestream.appraisal.policy import compile_policy
    from attestream.archive.inspection import boot_policies
    from attestream.archive.replaying import ask
    from attestream.archive.replaying import replay as run

    if policy is None:
        return run(appraisal, documents.compiled(appraisal, modules))
    boot = boot_policies(appraisal, modules)
    other = compile_policy(read(policy), dict(read_layer(text) for text in layers), boot_policies=boot)
    return ask(appraisal, other, earlier)


def _sentence(again: Replayed, appraisal: ArchivedAppraisal, *, other: bool) -> str:
    said = {"pass": "trusted", "fail": "not trusted", "again": "incomplete"}
    if other:
        return f"{said[again.verdict]} by this policy; {said[appraisal.verdict]} by {appraisal.policy}"
    return f"{said[again.verdict]}: {'identical' if again.identical else 'NOT what was kept'}"


async def _listed(session: Session, agent: str, since: int, until: int, limit: int) -> _Listed:
    from attestream.archive import reading

    found: list[Kept] = []
    rejected: list[str] = []
    async with session.client() as client:
        lines = reading.entries(
            client.bus,
            agent,
            since=since,
            until=until,
            on_rejected=lambda stored, error: rejected.append(f"line {stored.sequence} is not believed: {error.message}"),
        )
        async for kept in lines:
            if len(found) == limit:
                return _Listed(found, True, rejected)
            found.append(kept)
    return _Listed(found, False, rejected)


async def _shown(session: Session, number: int, *, with_log: bool) -> tuple[Kept, ArchivedAppraisal, ImaDelta | None]:
    from attestream.archive import reading
    from attestream.archive.inspection import whole_log

    async with session.client() as client:
        kept = await reading.find(client.bus, number)
        appraisal = await reading.appraisal(client.bus, kept)
        return kept, appraisal, await whole_log(client.bus, appraisal) if with_log else None


async def _fetched(
    session: Session, number: int, directory: Path | None
) -> tuple[ArchivedAppraisal, Documents, ImaDelta | None]:
    from attestream.archive import files, reading
    from attestream.archive.inspection import documents, earlier_log

    async with session.client() as client:
        kept = await reading.find(client.bus, number)
        packed = await reading.packed(client.bus, kept)
        appraisal = reading.opened(kept.entry, packed)
        published = await documents(client.bus, appraisal)
        earlier = await earlier_log(client.bus, appraisal)
        if directory is not None:
            extra = _readable(kept, appraisal, earlier)
            files.write(directory, _contents(kept, packed, published, client.bus.trust.roster_bytes, extra))
        return appraisal, published, earlier


def _contents(kept: Kept, packed: bytes, published: Documents, roster: bytes, extra: dict[str, bytes]) -> Contents:
    from attestream.archive.files import Contents

    return Contents(kept, packed, published, roster, extra)


def _readable(kept: Kept, appraisal: ArchivedAppraisal, earlier: ImaDelta | None) -> dict[str, bytes]:
    import json

    from attestream.archive.files import EARLIER
    from attestream.archive.replaying import evidence_of

    message = evidence_of(appraisal)
    text = json.dumps(output.plain(_line(kept) | {"findings": appraisal.findings}), indent=1, ensure_ascii=False)
    extra = {"appraisal.json": text.encode() + b"\n"}
    if earlier is not None:
        extra[EARLIER] = earlier.data
    if message.ima is not None and message.ima.data:
        extra["ima-log"] = message.ima.data
    if message.boot_log:
        extra["boot-log"] = message.boot_log
    return extra


def _from_files(
    session: Session, directory: Path, root: Path | None, *, unverified: bool
) -> tuple[ArchivedAppraisal, Documents, ImaDelta | None]:
    from attestream.archive import files
    from attestream.archive.replaying import evidence_of
    from attestream.signing import TrustedKeys, public_key
    from schemas.attestation import ImaDelta

    roots = None
    if not unverified:
        paths = [root] if root is not None else session.root_keys()
        if not paths:
            raise click.UsageError("name the root key that must vouch for it with --root, or say --unverified")
        roots = TrustedKeys([public_key(read(path, 64 << 10).decode("ascii", "replace")) for path in paths])
    found = files.read(directory, roots)
    own, before = evidence_of(found.appraisal).ima, files.earlier(directory)
    earlier = None
    if own is not None and own.ima_first and before:
        earlier = ImaDelta(ima_first=0, count=own.ima_first, data=before, ascii=own.ascii)
    return found.appraisal, found.documents, earlier


def _checked(target: str) -> int:
    if not (target.isascii() and target.isdigit() and len(target) < 19):
        raise click.UsageError(f"{target!r} is neither the ID of kept evidence nor a directory")
    return int(target)


def _line(kept: Kept) -> dict[str, Any]:
    return {"id": kept.number, "stored_at": kept.stored.at, **output.plain(kept.entry)}


def _describe(kept: Kept, appraisal: ArchivedAppraisal) -> None:
    from attestream.archive.replaying import evidence_of
    from attestream.cli.durations import ago

    message, entry = evidence_of(appraisal), kept.entry
    log = f"{message.ima.count} log entries from {message.ima.ima_first}" if message.ima is not None else "no log entries"
    output.line(f"evidence {kept.number}", f" of {entry.agent_id}, {ago(entry.at, int(time.time() * 1000))}")
    output.line(f"{entry.verdict}", f": {appraisal.before} -> {appraisal.standing} (event {appraisal.event_number})")
    output.line("policy", f" {appraisal.policy}, sha256 {appraisal.policy_digest}")
    output.line("by", f" {appraisal.worker}, Attestream {appraisal.version}")
    output.line("with", f" {log}, {len(message.boot_log)} bytes of boot log, challenge {message.seq}")
    output.line("object", f" {entry.object}, {entry.stored} bytes, {entry.size} unpacked")
    for finding in appraisal.findings:
        output.line(f"{finding.severity} {finding.code} {finding.culprit}".rstrip(), f": {finding.message}")


def _store(data: bytes, target: Path) -> None:
    try:
        target.write_bytes(data)
    except OSError as error:
        raise MalformedError(f"{target} can not be written: {error.strerror}") from error
