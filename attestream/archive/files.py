"""Kept evidence in files: everything that a replay and a proof need, so that neither needs the bus.

A directory holds ``proof.json`` (what was signed, and where its parts are), ``entry.msgpack`` (the signed line of the
index), ``object.zlib`` (the object that it names), ``roster.msgpack`` (the keys, signed by the root key), the policy's
documents, and for people ``appraisal.json`` and the logs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from attestream.archive.inspection import Documents
from attestream.archive.packing import MAX_BYTES
from attestream.archive.reading import Kept, decode_entry, opened
from attestream.backup.contents import start, writing
from attestream.errors import MalformedError, SignatureError
from attestream.signing import TrustedKeys
from attestream.trust import publication
from attestream.trust.keyring import Keyring, check_role
from attestream.trust.roots import open_roster
from schemas import subjects
from schemas.archive import ArchivedAppraisal, ArchiveEntry
from schemas.base import SchemaError, decode
from schemas.events import Signed
from schemas.roles import Role

FORMAT: Final = "attestream-evidence/1"
PROOF: Final = "proof.json"
ENTRY: Final = "entry.msgpack"
OBJECT: Final = "object.zlib"
ROSTER: Final = "roster.msgpack"
POLICY: Final = "policy.json"
EARLIER: Final = "earlier-ima-log"
_SMALL: Final = 4 << 20


class Proof(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What ties the files together."""

    format: str
    number: int
    subject: str
    stored_at: int
    signature: str
    """The header ``Attestream-Signature``; empty where nothing is signed."""
    layers: dict[str, str]
    """``name@version`` -> file."""


class Exported(NamedTuple):
    """Kept evidence that was read from files."""

    entry: ArchiveEntry
    appraisal: ArchivedAppraisal
    documents: Documents
    signed_by: str
    """The verifier in the roster; empty when nobody was asked to prove it."""


class Contents(NamedTuple):
    """What is written."""

    kept: Kept
    packed: bytes
    documents: Documents
    roster: bytes
    extra: Mapping[str, bytes]
    """File -> content, for people."""


def write(directory: Path, contents: Contents) -> None:
    """Write kept evidence into a new directory that only its owner may read.

    :raises ConfigError: when it holds something already, or can not be written.
    """
    stored = contents.kept.stored
    layers = {name: f"layer-{number}.json" for number, name in enumerate(contents.documents.layers)}
    proof = Proof(
        format=FORMAT,
        number=contents.kept.number,
        subject=stored.subject,
        stored_at=stored.at,
        signature=stored.headers.get(subjects.HEADER_SIGNATURE, ""),
        layers=layers,
    )
    files = {
        ENTRY: stored.data,
        OBJECT: contents.packed,
        POLICY: contents.documents.policy,
        **{layers[name]: document for name, document in contents.documents.layers.items()},
        **({ROSTER: contents.roster} if contents.roster else {}),
        **contents.extra,
        PROOF: msgspec.json.format(msgspec.json.encode(proof), indent=1) + b"\n",
    }
    start(directory)
    for name, data in files.items():
        with writing(directory / name) as file:
            file.write(data)


def read(directory: Path, roots: TrustedKeys | None) -> Exported:
    """Return the kept evidence in ``directory``; ``roots`` are the root keys that must vouch for it, ``None``: nobody must.

    :raises SignatureError: when no verifier of the installation has signed it.
    :raises MalformedError: when a file is missing, or is not what was signed.
    """
    try:
        proof = msgspec.json.decode(_file(directory, PROOF, _SMALL), type=Proof)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"{directory / PROOF} can not be read: {error}") from error
    if proof.format != FORMAT:
        raise MalformedError(f"the format of {directory} is {proof.format[:40]!r}; this version reads {FORMAT}")
    data = _file(directory, ENTRY, _SMALL)
    signed_by = _prove(directory, proof, data, roots) if roots is not None else ""
    entry = decode_entry(data, proof.subject)
    packed = _file(directory, OBJECT, MAX_BYTES)
    if not hmac.compare_digest(hashlib.sha256(packed).hexdigest(), entry.object):
        raise MalformedError(f"{directory / OBJECT} is not what the verifier has signed")
    layers = {name: _file(directory, Path(file).name, MAX_BYTES) for name, file in proof.layers.items()}
    documents = Documents(_file(directory, POLICY, MAX_BYTES), layers)
    return Exported(entry, opened(entry, packed), documents, signed_by)


def earlier(directory: Path) -> bytes:
    """Return the log before the evidence's own; empty when it is not there.

    :raises MalformedError: when it can not be read.
    """
    return _file(directory, EARLIER, MAX_BYTES) if (directory / EARLIER).exists() else b""


def _prove(directory: Path, proof: Proof, data: bytes, roots: TrustedKeys) -> str:
    if not proof.signature:
        raise SignatureError(f"{directory} comes from an installation where nothing is signed")
    try:
        signed = decode(_file(directory, ROSTER, _SMALL), Signed)
    except SchemaError as error:
        raise MalformedError(f"the roster in {directory} can not be read: {error}") from error
    keyring = Keyring(open_roster(signed, roots)[0])
    signature = publication.parse(proof.signature)
    author = keyring.verify(signature, proof.subject, data, received_at=proof.stored_at)
    check_role(author, (Role.VERIFIER,))
    return author.name


def _file(directory: Path, name: str, limit: int) -> bytes:
    path = directory / name
    try:
        with path.open("rb") as file:
            # Room is made for as much as is asked for, and the limit is far above what is usually there.
            data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except OSError as error:
        raise MalformedError(f"{path} can not be read: {error.strerror}", remedy="Export the evidence anew.") from error
    if len(data) > limit:
        raise MalformedError(f"{path} is larger than {limit} bytes")
    return data
