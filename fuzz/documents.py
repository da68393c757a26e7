"""Targets that read documents, files and records: policies and their envelopes, back-ups, kept evidence, rosters."""

from __future__ import annotations

import hashlib
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from attestream.appraisal.boot_learning import Given, expectations_from_log
from attestream.appraisal.state import AttesterState, decode_state
from attestream.archive import files
from attestream.archive.packing import pack
from attestream.archive.reading import decode_entry, opened
from attestream.archive.replaying import evidence_of
from attestream.backup import authenticity
from attestream.backup.contents import FORMAT
from attestream.clock import unix_ms
from attestream.interop.native import native_document
from attestream.reference.certificates import certified_keys
from attestream.reference.comparison import compare
from attestream.reference.envelope import parse_envelope, sign_envelope, verify_envelope
from attestream.reference.lint import check_document
from attestream.reference.pcrs import read_values
from attestream.signing import TrustedKeys
from attestream.trust import publication
from attestream.trust.roots import open_roster
from attestream.uefi.policy.create import create_reference_state
from devtools import wire_examples
from devtools.grub_boot import grub_boot
from devtools.roster_keys import RosterKeys
from devtools.uki_boot import firmware, uki_boot
from fuzz.target import Target
from schemas import subjects
from schemas.archive import ArchivedAppraisal, ArchiveEntry
from schemas.attestation import Evidence
from schemas.base import decode, encode
from schemas.events import Signed


def _roster_keys() -> RosterKeys:
    with tempfile.TemporaryDirectory(prefix="attestream-fuzz-") as name:
        return RosterKeys(Path(name))


def _self_signed(key: Ed25519PrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, _NOW - timedelta(1), _NOW + timedelta(1))
    return builder.sign(key, None)


_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SIGNER: Final = Ed25519PrivateKey.generate()
_KEYS: Final = _roster_keys()
_ROOTS: Final = TrustedKeys.from_pems([_KEYS.root.public_pem])
_CERTIFICATE: Final = _self_signed(_SIGNER)
_AT: Final = unix_ms()


def whole_policy() -> dict[str, Any]:
    """Return a policy document that has every part there is."""
    digest = "sha256:" + "ab" * 32
    boot = expectations_from_log(bytes(uki_boot(firmware())), given=Given(phases=("enter-initrd", "ready"))).settings
    state = create_reference_state(bytes(grub_boot()))
    return {
        "format": "attestream-policy/1",
        "description": "all of it",
        "bank": "sha256",
        "pcrs": {"7": ["00" * 32], "14": ["11" * 32, "22" * 32]},
        "boot": {"policy": "example", "reference_states": [state], "pcrs": [0, 1], **boot},
        "runtime": {
            "digests": {"/bin/ls": [digest], "boot_aggregate": [digest], "/v": ["verity:" + digest]},
            "excludes": ["/var/cache/.*", "/run/[a-z]+"],
            "deny": {"paths": ["/usr/bin/nc"], "digests": [digest]},
            "signatures": {"keys": [], "rule": "either", "hashes": ["sha256"]},
            "evm": {"keys": [], "rule": "both"},
            "keyrings": {".ima": [digest]},
            "ignored_keyrings": [".builtin_trusted_keys"],
            "buffers": {"kexec-cmdline": [digest], "selinux-state": ["*"]},
            "violations": "fail",
        },
        "recovery": "automatic",
        "severities": [{"code": "boot[.]pcr-value", "severity": "warning"}],
        "archive": {"keep": "failures", "days": 90, "logs": True},
        "allow_sha1": False,
    }


def _kept() -> tuple[ArchiveEntry, bytes]:
    """Return a line of the archive, and the object that it is about."""
    line = next(message for message in wire_examples.ARCHIVE if isinstance(message, ArchiveEntry))
    kept = next(message for message in wire_examples.ARCHIVE if isinstance(message, ArchivedAppraisal))
    evidence = next(message for message in wire_examples.EXAMPLES.values() if isinstance(message, Evidence))
    data = encode(msgspec.structs.replace(kept, evidence=encode(evidence)))
    packed = pack(data)
    name = hashlib.sha256(packed).hexdigest()
    return msgspec.structs.replace(line, at=kept.received_at, size=len(data), verdict=kept.verdict, object=name), packed


_LINE, _OBJECT = _kept()
_ENTRY: Final = encode(_LINE)
_SUBJECT: Final = subjects.archived_evidence(_LINE.agent_id)
_ROSTER: Final = _KEYS.signed
_POLICY: Final = json.dumps(whole_policy()).encode("ascii")


def _review(data: bytes) -> object:
    return compare(_POLICY, data), compare(data, _POLICY), check_document(data)


def _convert(data: bytes) -> object:
    try:
        policy = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return native_document(policy) if isinstance(policy, dict) else None


def _runtime_policies() -> list[bytes]:
    policy = {
        "meta": {"version": 1, "generator": 3},
        "release": 0,
        "digests": {"/bin/ls": ["ab" * 32]},
        "excludes": ["/run(/.*)?"],
        "keyrings": {".ima": ["cd" * 32]},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": {},
        "verification-keys": "",
    }
    return [json.dumps(policy).encode("ascii")]


def _open_envelope(data: bytes) -> object:
    envelope = parse_envelope(data)
    return certified_keys(envelope, [_CERTIFICATE], _NOW), verify_envelope(envelope, [_SIGNER.public_key()])


def _learn(data: bytes) -> object:
    return expectations_from_log(data, given=Given(without_secure_boot=True))


def _state_of(data: bytes) -> object:
    return create_reference_state(data, without_secureboot=True)


def _manifests() -> list[bytes]:
    stream = {"kind": "stream", "name": "EVENTS", "size": 1, "sha256": "0" * 64, "items": 1}
    entries = [
        stream | {"about": {"config": {"name": "EVENTS"}, "state": {}}},
        stream | {"kind": "rows", "name": "verifier"},
    ]
    return [json.dumps({"format": FORMAT, "version": "0.1.0", "at": _AT, "entries": entries}).encode("ascii")]


def _backup_signature(data: bytes) -> object:
    return authenticity.check(_manifests()[0], _AT, data, _KEYS.roster)


def _backup_signatures() -> list[bytes]:
    return [authenticity.sign(_manifests()[0], _KEYS.signers[name]) for name in ("registrar", "verifier")]


def _archive_entry(data: bytes) -> object:
    return decode_entry(data, _SUBJECT)


def _archive_object(data: bytes) -> object:
    """Open ``data`` as the compressed object of a line, which tells its size."""
    return evidence_of(opened(_LINE, data))


def _archive_proof(data: bytes) -> object:
    with tempfile.TemporaryDirectory(prefix="attestream-fuzz-") as name:
        written = {
            files.PROOF: data,
            files.ENTRY: _ENTRY,
            files.OBJECT: _OBJECT,
            files.POLICY: _POLICY,
            files.ROSTER: _ROSTER,
        }
        for file, content in written.items():
            Path(name, file).write_bytes(content)
        return files.read(Path(name), _ROOTS)


def _proofs() -> list[bytes]:
    now = unix_ms()
    header = publication.sign(_KEYS.signers["verifier"], _SUBJECT, _ENTRY, now)
    proof = files.Proof(format=files.FORMAT, number=1, subject=_SUBJECT, stored_at=now, signature=header, layers={})
    return [msgspec.json.encode(proof), msgspec.json.encode(msgspec.structs.replace(proof, layers={"base@1": "base.json"}))]


def _headers() -> list[bytes]:
    return [publication.sign(_KEYS.signers["verifier"], "att.result.a", b"payload", _AT).encode("ascii")]


def _roster(data: bytes) -> object:
    return open_roster(decode(data, Signed), _ROOTS)


DOCUMENTS: Final = (
    Target("policy_review", _review, lambda: [_POLICY]),
    Target("runtime_policy", _convert, _runtime_policies),
    Target("envelope", _open_envelope, lambda: [sign_envelope(_POLICY, _SIGNER, certificate=_CERTIFICATE)]),
    Target(
        "pcr_values", read_values, lambda: [b"sha256:\n  0 : 0x" + b"ab" * 32, b'{"sha256": {"7": "' + b"00" * 32 + b'"}}']
    ),
    Target("boot_learning", _learn, lambda: [bytes(grub_boot()), bytes(uki_boot(firmware()))]),
    Target("reference_state", _state_of, lambda: [bytes(grub_boot())]),
    Target("attester_state", decode_state, lambda: [AttesterState(policy="ab" * 32, ima_entries=3).encode()]),
    Target("backup_signature", _backup_signature, _backup_signatures),
    Target("archive_entry", _archive_entry, lambda: [_ENTRY]),
    Target("archive_object", _archive_object, lambda: [_OBJECT]),
    Target("archive_proof", _archive_proof, _proofs),
    Target("roster", _roster, lambda: [_ROSTER]),
    Target("signature_header", lambda data: publication.parse(data.decode("latin-1")), _headers),
)
"""Every parser of what is kept in files, buckets and rows."""
