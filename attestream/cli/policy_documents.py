"""The commands ``policy convert``, ``policy sign`` and ``policy verify``."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from attestream.cli.documents import input_path, output_option, read, read_text, write, write_document
from attestream.cli.output import note, write_json
from attestream.cli.session import json_option
from attestream.errors import MalformedError, PolicyError

if TYPE_CHECKING:
    from attestream.interop.runtime_conversion import Converted


@click.command()
@click.argument("file", type=input_path)
@click.option("--to", "form", type=click.Choice(["attestream", "keylime"]), default="attestream", help="Form of the result.")
@click.option("--exclude-list", "exclude_lists", type=input_path, multiple=True, help="File with one REGEX in each line.")
@click.option("--key", "keys", type=input_path, multiple=True, help="Key or certificate that signs files.")
@click.option("--reference-state", "states", type=input_path, multiple=True, help="Reference state of a boot, to go along.")
@click.option("--bank", default="sha256", show_default=True, help="PCR bank to be quoted.")
@click.option("--description", default="", help="What the policy is for.")
@output_option
@json_option
def convert(
    file: Path,
    form: str,
    exclude_lists: tuple[Path, ...],
    keys: tuple[Path, ...],
    states: tuple[Path, ...],
    bank: str,
    description: str,
    target: Path | None,
    as_json: bool,
) -> None:
    """Convert FILE: a Keylime runtime policy (signed or not), a JSON allowlist, a flat allowlist, or a reference state.

    A signature is not verified: use `policy verify` before.
    """
    text = read_text(file)
    if form == "keylime" and (states or _is_reference_state(text)):
        raise click.UsageError("a reference state goes into policies of attestream only")
    if _is_reference_state(text):
        if exclude_lists or keys:
            raise click.UsageError("a reference state has neither excludes nor keys of files")
        made = _Made({}, [], [])
        states = (file, *states)
    else:
        made = _convert_runtime(text, form, exclude_lists, keys, bank, description)
    document = made.document
    if states:
        document = _with_states(states, document, bank, description)
        made.counts.append(f"{len(states)} reference states")
    write_document(document, target, made.remarks, as_json=as_json, summary=", ".join(made.counts))


class _Made(NamedTuple):
    """A policy, what was left out, and what is in it."""

    document: dict[str, Any]
    remarks: list[str]
    counts: list[str]


def _convert_runtime(
    text: str, form: str, exclude_lists: tuple[Path, ...], keys: tuple[Path, ...], bank: str, description: str
) -> _Made:
    from attestream.interop.excludes import read_exclude_list
    from attestream.interop.native import native_document
    from attestream.interop.runtime_conversion import update_policy
    from attestream.interop.runtime_schema import check_runtime_policy

    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    found = _read_policy(text, now)
    excludes = [line for path in exclude_lists for line in read_exclude_list(read_text(path))]
    updated = update_policy(found.policy, excludes=excludes, keys=[(str(path), read(path)) for path in keys], timestamp=now)
    remarks = [*found.remarks, *updated.remarks]
    if form == "keylime":
        check_runtime_policy(updated.policy)
        return _Made(updated.policy, remarks, [f"{len(updated.policy['digests'])} paths"])
    native = native_document(_named_alike(updated.policy), bank=bank, description=description)
    return _Made(native.policy, [*remarks, *native.remarks], [f"{len(native.policy['runtime']['digests'])} paths"])


def _is_reference_state(text: str) -> bool:
    try:
        top = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(top, dict) and "scrtm_and_bios" in top


def _with_states(states: tuple[Path, ...], document: dict[str, Any], bank: str, description: str) -> dict[str, Any]:
    from attestream.appraisal.policy import compile_policy
    from attestream.reference.boot import with_reference_state

    for path in states:
        try:
            state = json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"{path} is not JSON") from error
        document = with_reference_state(state, base=document, bank=bank, description=description)
    compile_policy(json.dumps(document).encode("ascii"))
    return document


def _read_policy(text: str, now: str) -> Converted:
    from attestream.interop.runtime_conversion import Converted, convert_allowlist
    from attestream.reference.envelope import is_envelope, parse_envelope

    encoded = text.encode("utf-8")
    if is_envelope(encoded):
        text = parse_envelope(encoded).payload.decode("utf-8", "replace")
    try:
        top = json.loads(text)
    except (ValueError, RecursionError):
        top = None
    if isinstance(top, dict) and "format" in top and "meta" not in top:
        raise PolicyError("the file is a policy document already", remedy="Push it: `attestream policy push NAME FILE`.")
    if isinstance(top, dict) and "digests" in top and "meta" in top:
        return Converted(top)
    return convert_allowlist(text, timestamp=now)


def _named_alike(policy: dict[str, Any]) -> dict[str, Any]:
    """Drop the algorithm before the digests of old lists, which the runtime policy's form does not have."""
    digests = policy.get("digests")
    if not isinstance(digests, dict):
        return policy
    plain = {
        path: [item.rpartition(":")[2].lower() if isinstance(item, str) else item for item in listed]
        if isinstance(listed, list)
        else listed
        for path, listed in digests.items()
    }
    ima = {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None} | (policy.get("ima") or {})
    return {**policy, "digests": plain, "ima": ima}


@click.command()
@click.argument("file", type=input_path)
@click.option("--key", type=input_path, help="Private key in PEM: Ed25519, or on P-256, P-384 or P-521.")
@click.option(
    "--new-key", type=click.Path(dir_okay=False, path_type=Path), help="Make a key; its public part gets the ending .pub."
)
@click.option(
    "--kind", type=click.Choice(["ed25519", "ecdsa"]), default="ed25519", show_default=True, help="Of the new key."
)
@click.option("--certificate", type=input_path, help="Certificate of the key in PEM, to be sent along.")
@output_option
@json_option
def sign(
    file: Path,
    key: Path | None,
    new_key: Path | None,
    kind: str,
    certificate: Path | None,
    target: Path | None,
    as_json: bool,
) -> None:
    """Put the policy document in FILE into a signed envelope (DSSE)."""
    from attestream.interop.policy_signature import PAYLOAD_TYPE
    from attestream.reference.certificates import load_certificate
    from attestream.reference.envelope import POLICY_TYPE, key_fingerprint, load_signing_key, sign_envelope

    if (key is None) == (new_key is None):
        raise click.UsageError("give either --key or --new-key")
    document = read(file)
    ours = _is_ours(document)
    if key is not None:
        signing = load_signing_key(read(key))
    elif new_key is not None:
        signing = load_signing_key(_make_key(new_key, kind))
    issued = load_certificate(read(certificate)) if certificate is not None else None
    envelope = sign_envelope(document, signing, payload_type=POLICY_TYPE if ours else PAYLOAD_TYPE, certificate=issued)
    write(envelope, target)
    if target is not None:
        keyid = key_fingerprint(signing.public_key())
        if as_json:
            write_json({"file": str(target), "key": keyid})
        else:
            click.echo(f"{target}: signed with key {keyid}")


def _is_ours(document: bytes) -> bool:
    """Return whether a document is one of our policies; the incumbent's are the other ones.

    :raises PolicyError: when it is neither.
    """
    from attestream.appraisal.document import load
    from attestream.interop.runtime_schema import check_runtime_policy

    top = load(document)
    if "format" in top:
        return True
    check_runtime_policy(top)
    return False


def _make_key(path: Path, kind: str) -> bytes:
    """Make a key, write it to a new file that only its owner may read, and its public part beside it; return it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    made = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    pem: bytes = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, pem, 0o600)
    _write_new(path.with_name(f"{path.name}.pub"), public, 0o644)
    return pem


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        remedy = "Choose another name: a key is never overwritten."
        raise MalformedError(f"{path} can not be made: {error.strerror}", remedy=remedy) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


@click.command()
@click.argument("file", type=input_path)
@click.option("--key", "keys", type=input_path, multiple=True, help="Trusted public key in PEM.")
@click.option("--ca", "authorities", type=input_path, multiple=True, help="Trusted certificate of signer or issuer.")
@output_option
@json_option
def verify(file: Path, keys: tuple[Path, ...], authorities: tuple[Path, ...], target: Path | None, as_json: bool) -> None:
    """Verify that the envelope in FILE is signed by a trusted key or certificate; -o writes the policy that is in it."""
    from attestream.interop.policy_signature import PAYLOAD_TYPE
    from attestream.reference.certificates import certified_keys, load_certificate
    from attestream.reference.envelope import (
        POLICY_TYPE,
        key_fingerprint,
        load_verifying_key,
        parse_envelope,
        verify_envelope,
    )

    if not keys and not authorities:
        raise click.UsageError("give a trusted --key or --ca: a signature alone says nothing")
    envelope = parse_envelope(read(file))
    trusted = [load_verifying_key(read(path)) for path in keys]
    if authorities:
        now = dt.datetime.now(dt.UTC)
        trusted += certified_keys(envelope, [load_certificate(read(path)) for path in authorities], now)
    keyid = key_fingerprint(verify_envelope(envelope, trusted))
    if envelope.payload_type not in (POLICY_TYPE, PAYLOAD_TYPE):
        raise PolicyError(f"the envelope holds {envelope.payload_type!r}, which is no policy")
    if target is not None:
        write(envelope.payload, target)
    if as_json:
        write_json(
            {"key": keyid, "payload_type": envelope.payload_type, "file": str(target) if target is not None else None}
        )
    else:
        click.echo(f"signed by key {keyid}")
        if target is None:
            note("the policy was not written: give -o FILE")
