"""Writes what both verifiers are measured with, in a directory: the same policies, logs, boot log and quotes in both forms.

Everything is made up, in the sizes of a real machine: 100,000 paths of a Debian image, a boot log of 40 KB.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from attestream.ima.digests import ALGORITHM_NAMES
from attestream.ima.keys import SigningKey
from attestream.interop.pcr_blob import build_pcr_blob
from attestream.uefi.policy.create import create_reference_state
from devtools import ima_log
from devtools.boot_log import BootLog
from devtools.grub_boot import CERTIFICATE, grub_boot
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import qualifying_data

ENTRIES: Final = 100_000
"""Entries of the log, and paths of its policy."""
SIGNED: Final = 4_000
"""Entries with a file signature, each another one."""
QUOTES: Final = 300
POLICIES: Final = (0, 10_000, 100_000, 1_000_000)
"""Paths of the policies."""
LARGEST_FOR_INCUMBENT: Final = 100_000
FLEET: Final = 33
"""Machines whose boot logs are measured."""
BOOT_PCRS: Final = tuple(range(10))
BINDING_PCR: Final = 16
"""The incumbent's agent extends it with its transport key; here the quote's qualifying data does the same."""
AGENT: Final = "agent-000001"

Signer = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def path_of(number: int) -> str:
    """Return the path of file ``number``."""
    return f"/usr/lib/x86_64-linux-gnu/pkg-{number // 40:05d}/lib/module_{number:06d}.so"


def content_digest(name: str) -> bytes:
    """Return the SHA-256 of the content that the file ``name`` has here."""
    return hashlib.sha256(name.encode()).digest()


def write_samples(directory: Path) -> None:
    """Write everything into ``directory``."""
    for paths in POLICIES:
        _write_policy(directory, paths)
    _write_log(directory, "ima-ng", [_record(path_of(number)) for number in range(ENTRIES - 1)])
    for kind, key in (
        ("rsa", rsa.generate_private_key(65537, 2048)),
        ("ecdsa", ec.generate_private_key(ec.SECP256R1())),
    ):
        _write_signed(directory, kind, key)
    _write_boot(directory)
    # What the TPM of an agent that has only booted holds in PCR 0.
    only_pcrs = {"format": "attestream-policy/1", "bank": "sha256", "pcrs": {"0": [bytes(32).hex()]}}
    _write(directory, "policy-poll.json", only_pcrs)
    keys = KeyPool(1)
    for kind in ("rsa2048", "p256"):
        _write_quotes(directory, kind, SoftTpm(ek="p256", ak=kind, banks=("sha256",), keys=keys))


def _write_policy(directory: Path, paths: int) -> None:
    files = {name: content_digest(name).hex() for name in ("boot_aggregate", *map(path_of, range(paths)))}
    runtime = {"digests": {name: [f"sha256:{digest}"] for name, digest in files.items()}, "excludes": []}
    _write(directory, f"policy-{paths}.json", {"format": "attestream-policy/1", "bank": "sha256", "runtime": runtime})
    if paths <= LARGEST_FOR_INCUMBENT:
        _write(directory, f"incumbent-policy-{paths}.json", incumbent_policy(files))


def incumbent_policy(files: dict[str, str]) -> dict[str, Any]:
    """Return the policy of ``files`` (path -> SHA-256 in hex) as the incumbent has it."""
    return {
        "meta": {"version": 1, "generator": 3},
        "release": 0,
        "digests": {name: [digest] for name, digest in files.items()},
        "excludes": [],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": {},
        "verification-keys": "",
    }


def _record(name: str, **options: Any) -> ima_log.Record:
    return ima_log.record(name, content_digest(name), **options)


def _write_log(directory: Path, name: str, records: list[ima_log.Record], template: str = "ima-ng") -> None:
    """Write the log in both forms, behind its ``boot_aggregate``, and the value of PCR 10 after it."""
    records = [_record("boot_aggregate", template=template), *records]
    value = bytes(32)
    for record in records:
        value = hashlib.sha256(value + ima_log.extend_value(record, "sha256")).digest()
    directory.joinpath(f"{name}.bin").write_bytes(b"".join(record.binary for record in records))
    directory.joinpath(f"{name}.txt").write_text("".join(f"{record.ascii}\n" for record in records), encoding="ascii")
    _write(directory, f"{name}.json", {"pcr": value.hex(), "entries": len(records)})


def _write_signed(directory: Path, kind: str, key: Signer) -> None:
    names = [path_of(number) for number in range(SIGNED - 1)]
    records = [_record(name, template="ima-sig", signature=_file_signature(key, content_digest(name))) for name in names]
    _write_log(directory, f"ima-sig-{kind}", records, "ima-sig")
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    directory.joinpath(f"{kind}.pem").write_bytes(pem)
    signed = {"digests": {"boot_aggregate": [f"sha256:{content_digest('boot_aggregate').hex()}"]}}
    runtime = signed | {"signatures": {"keys": [pem.decode("ascii")]}}
    _write(directory, f"policy-{kind}.json", {"format": "attestream-policy/1", "bank": "sha256", "runtime": runtime})


def _file_signature(key: Signer, digest: bytes) -> bytes:
    """Return a ``security.ima`` value of version 2 (Linux ``security/integrity/integrity.h``, ``signature_v2_hdr``)."""
    scheme = Prehashed(hashes.SHA256())
    value = (
        key.sign(digest, padding.PKCS1v15(), scheme)
        if isinstance(key, rsa.RSAPrivateKey)
        else key.sign(digest, ec.ECDSA(scheme))
    )
    head = bytes((3, 2, ALGORITHM_NAMES.index("sha256"))) + SigningKey(key.public_key()).keyid.to_bytes(4, "big")
    return head + len(value).to_bytes(2, "big") + value


def _write_boot(directory: Path) -> None:
    fleet = [_boot_log(uuid.UUID(bytes=content_digest(f"machine {number}")[:16])) for number in range(FLEET)]
    reference = create_reference_state(bytes(fleet[0]))
    [kernel] = reference["kernels"]
    kernel["kernel_cmdline"] = "\\(hd0,gpt2\\)/vmlinuz root=UUID=[0-9a-f-]{36} ro ima_policy=tcb"
    boot = {"policy": "example", "reference_states": [reference]}
    _write(directory, "policy-boot.json", {"format": "attestream-policy/1", "bank": "sha256", "boot": boot})
    shown = []
    for number, log in enumerate(fleet):
        directory.joinpath("boot.bin" if number == 0 else f"boot-{number}.bin").write_bytes(bytes(log))
        shown.append({pcr: log.pcrs["sha256"].get(pcr, bytes(32)).hex() for pcr in range(24)})
    _write(directory, "boot.json", {"reference": reference, "pcrs": shown[0], "others": shown[1:]})


def _boot_log(file_system: uuid.UUID) -> BootLog:
    """Return the log of a laptop with Secure Boot: one bank, 370 forbidden images, 70 commands of GRUB.

    Machines of a fleet differ in the UUID of their file system, by which GRUB and the kernel find it.
    """
    commands = [f"setparams option-{number} /boot/grub/x86_64-efi" for number in range(70)]
    return grub_boot(
        banks=("sha256",),
        db=[CERTIFICATE + bytes([number]) * 1_500 for number in range(6)],
        forbidden=[content_digest(str(number)) for number in range(370)],
        commands=[*commands, f"search --no-floppy --fs-uuid --set=root {file_system}", "insmod gzio"],
        command_line=f"(hd0,gpt2)/vmlinuz root=UUID={file_system} ro ima_policy=tcb",
    )


def _write_quotes(directory: Path, kind: str, tpm: SoftTpm) -> None:
    transport_key = hashlib.sha256(b"transport key").digest()
    pem = "-----BEGIN PUBLIC KEY-----\nno key, only bound\n-----END PUBLIC KEY-----\n"
    tpm.extend(BINDING_PCR, {"sha256": hashlib.sha256(pem.encode()).digest()})
    for pcr in BOOT_PCRS:
        tpm.extend(pcr, {"sha256": content_digest(f"PCR {pcr}")})
    quoted = (*BOOT_PCRS, BINDING_PCR)
    values = {pcr: tpm.pcr("sha256", pcr) for pcr in quoted}
    blob = build_pcr_blob((("sha256", quoted),), {"sha256": values})
    ours, theirs = [], []
    for number in range(QUOTES):
        nonce = hashlib.sha256(f"nonce {number}".encode()).hexdigest()[:32]
        attest, signature = tpm.quote(qualifying_data(nonce.encode(), AGENT, transport_key), {"sha256": quoted})
        ours.append({"nonce": nonce, "quote": attest.hex(), "signature": signature.hex()})
        bound = tpm.quote(nonce.encode(), {"sha256": quoted})
        theirs.append({"nonce": nonce, "quote": "r" + ":".join(_base64(part) for part in (*bound, blob))})
    pcrs = {str(pcr): [value.hex()] for pcr, value in values.items()}
    _write(directory, f"policy-{kind}.json", {"format": "attestream-policy/1", "bank": "sha256", "pcrs": pcrs})
    del pcrs[str(BINDING_PCR)]
    found = {
        "ak": _base64(tpm.ak_public),
        "transport_key": transport_key.hex(),
        "values": {str(pcr): value.hex() for pcr, value in values.items()},
        "quotes": ours,
        "incumbent_key": pem,
        "incumbent_quotes": theirs,
        "incumbent_policy": {"mask": hex(sum(1 << pcr for pcr in BOOT_PCRS)), **pcrs},
    }
    _write(directory, f"quotes-{kind}.json", found)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _write(directory: Path, name: str, value: Any) -> None:
    directory.joinpath(name).write_text(json.dumps(value), encoding="ascii")
