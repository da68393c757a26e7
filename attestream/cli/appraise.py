"""The command ``appraise``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from attestream.cli import exits, output
from attestream.cli.documents import input_path, read, read_text
from attestream.cli.session import json_option
from attestream.errors import MalformedError

if TYPE_CHECKING:
    from attestream.appraisal.policy import CompiledPolicy
    from attestream.tpm.public import Public
    from schemas.attestation import Evidence, ImaDelta
    from schemas.events import Finding


@click.command()
@click.argument("evidence", type=input_path, nargs=-1, required=True)
@click.option("--policy", type=input_path, required=True, help="Policy document.")
@click.option("--ak", type=input_path, required=True, help="Attestation key: TPM2B_PUBLIC, or a public key in PEM.")
@click.option("--nonce", default="", help="Nonce of a Keylime quote.")
@click.option("--ima-log", type=input_path, help="IMA log of the evidence, in either form, from its first entry.")
@click.option("--boot-log", type=input_path, help="Boot log that belongs to the evidence.")
@click.option("--layer", "layers", multiple=True, metavar="NAME@VERSION=FILE", help="A layer that the policy names.")
@json_option
def appraise(
    evidence: tuple[Path, ...],
    policy: Path,
    ak: Path,
    nonce: str,
    ima_log: Path | None,
    boot_log: Path | None,
    layers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Appraise EVIDENCE that was kept in files, without services, by the code that the verifier runs.

    A file holds one evidence message (MessagePack), or a Keylime quote as text (r...:...:...), which needs --nonce and
    usually the logs. Several files are appraised in their order, each upon what the ones before have proven. How old the
    evidence is can not be told from files. Exits with 4 when it is not to be trusted.
    """
    from attestream.appraisal.policy import compile_policy
    from attestream.cli.policy_review import read_layer

    compiled = compile_policy(read(policy), dict(read_layer(text) for text in layers))
    key = _read_key(read(ak, 64 << 10))
    log = _delta(read(ima_log)) if ima_log is not None else None
    boot = read(boot_log) if boot_log is not None else b""
    contents = [(path, read(path)) for path in evidence]
    if _is_quote_text(contents[0][1]):
        found, verdict = _appraise_text(contents, nonce, key, compiled, log, boot)
    else:
        found, verdict = _appraise_messages(contents, key, compiled, log, boot)
    if as_json:
        output.write_json({"verdict": verdict, "findings": list(found)})
    else:
        for finding in found:
            output.line(
                f"{finding.severity} {finding.code} {finding.culprit}".rstrip(), f": {finding.message} {finding.remedy}"
            )
        click.echo({"pass": "trusted", "fail": "not trusted", "again": "not trusted: incomplete"}[verdict])
    return exits.OK if verdict == "pass" else exits.NOT_TRUSTED


def _is_quote_text(data: bytes) -> bool:
    return data[:1] == b"r" and data.count(b":") >= 2


def _appraise_text(
    contents: list[tuple[Path, bytes]],
    nonce: str,
    ak: Public,
    policy: CompiledPolicy,
    ima: ImaDelta | None,
    boot_log: bytes,
) -> tuple[tuple[Finding, ...], str]:
    from attestream.interop.offline import appraise_quote_text

    if len(contents) != 1:
        raise click.UsageError("only one quote can be appraised at a time")
    if not nonce:
        raise click.UsageError("a quote needs the --nonce that it was asked for with")
    text = read_text(contents[0][0]) if str(contents[0][0]) != "-" else contents[0][1].decode("ascii", "replace")
    found = appraise_quote_text(text.strip(), nonce=nonce, ak=ak, policy=policy, ima=ima, boot_log=boot_log)
    return found, "fail" if any(finding.severity == "failure" for finding in found) else "pass"


def _appraise_messages(
    contents: list[tuple[Path, bytes]], ak: Public, policy: CompiledPolicy, ima: ImaDelta | None, boot_log: bytes
) -> tuple[tuple[Finding, ...], str]:
    from attestream.appraisal.appraise import appraise as run
    from attestream.appraisal.state import fresh

    state = fresh()
    found: list[Finding] = []
    verdict = "again"
    for number, (path, data) in enumerate(contents):
        message = _decode(path, data)
        if number == 0:
            message = _with_logs(message, ima, boot_log)
        result = run(message, agent_id=message.agent_id, ak=ak, policy=policy, state=state, now=int(time.time() * 1000))
        state, verdict = result.state, str(result.verdict)
        found += result.findings
        if verdict == "fail":
            break
    return tuple(found), verdict


def _decode(path: Path, data: bytes) -> Evidence:
    from schemas.attestation import Evidence

    try:
        return msgspec.msgpack.decode(data, type=Evidence)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        remedy = "Give an evidence message in MessagePack, or a quote as text."
        raise MalformedError(f"{path} is not evidence: {error}", remedy=remedy) from error


def _with_logs(message: Evidence, ima: ImaDelta | None, boot_log: bytes) -> Evidence:
    """Put logs from files where the evidence has none."""
    carries = message.ima is not None and message.ima.data
    changes: dict[str, object] = {}
    if ima is not None and not carries:
        changes["ima"] = ima
    if boot_log and not message.boot_log:
        changes["boot_log"] = boot_log
    return msgspec.structs.replace(message, **changes)


def _delta(log: bytes) -> ImaDelta:
    from attestream.ima.log import split_ascii, split_binary
    from attestream.reference.lists import looks_ascii
    from schemas.attestation import ImaDelta

    ascii_form = looks_ascii(log)
    count = sum(1 for record in (split_ascii(log) if ascii_form else split_binary(log)) if record)
    return ImaDelta(ima_first=0, count=count, data=log, ascii=ascii_form)


def _read_key(data: bytes) -> Public:
    from attestream.interop.keys import public_of_pem
    from attestream.tpm.public import parse_public

    if data.lstrip().startswith(b"-----BEGIN"):
        return public_of_pem(data.decode("ascii", "replace"))
    return parse_public(data)
