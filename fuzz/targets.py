"""What is fuzzed: each target reads bytes as a stranger may send them, and begins from inputs that are right."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestream.appraisal.boot import appraise_boot_log, compile_boot
from attestream.appraisal.boot_learning import expectations_from_log
from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import compile_policy
from attestream.backup import contents, databases
from attestream.credentials import document, token
from attestream.credentials.nkey import Kind, NKey
from attestream.ima import device_mapper, evm, log, signatures, templates
from attestream.ima.fields import sized
from attestream.ima.keys import KeyRing, SigningKey
from attestream.interop.pcr_blob import build_pcr_blob, parse_pcr_blob
from attestream.interop.quotes import QuoteParts, build_quote_text, parse_quote_text
from attestream.interop.runtime_conversion import convert_allowlist
from attestream.pki.certificate import parse_certificate
from attestream.tpm import certification, credential, public, selection, structures
from attestream.uefi import device_path, dictionary, parser
from attestream.uefi.memo import EventMemo
from attestream.uefi.replay import replay_bank
from attestream.uefi.signatures import parse_signature_lists
from devtools import boot_log, ima_log, wire_examples
from devtools.evm_signature import evm_fields, ima_digest
from devtools.sample_boot import sample_boot
from devtools.soft_tpm import SoftTpm
from devtools.uki_boot import direct_boot, firmware, uki_boot
from fuzz.archives import ARCHIVES
from fuzz.documents import DOCUMENTS, whole_policy
from fuzz.identity import IDENTITY
from fuzz.incumbent import INCUMBENT
from fuzz.target import Target
from schemas import attestation, base, commands

_KEY: Final = ec.generate_private_key(ec.SECP256R1())
_USER: Final = NKey.generate(Kind.USER)
_BOOT_RULES: Final = compile_boot(
    {"phases": ["enter-initrd"], **expectations_from_log(bytes(uki_boot(firmware()))).settings}
)


def _bus_token() -> str:
    issuer = NKey.generate(Kind.ACCOUNT)
    return token.user_token(issuer, _USER.public, "w1", account=issuer.public, now=1, tags=[token.role_tag("verifier")])


@cache
def _quotes() -> list[tuple[bytes, bytes]]:
    banks = {"sha1": [0, 10], "sha256": [0, 1, 7, 10]}
    return [SoftTpm(ek="p256", ak=ak).quote(b"q" * 32, banks) for ak in ("rsa2048", "p256")]


@cache
def _publics() -> list[bytes]:
    tpms = [SoftTpm(ek=kind, ak=kind) for kind in ("rsa2048", "p256", "p384")]
    return [key for tpm in tpms for key in (tpm.ek_public, tpm.ak_public)]


def _records() -> list[ima_log.Record]:
    return [
        ima_log.record("/usr/bin/ls", b"d" * 32),
        ima_log.record("/usr/bin/cat", b"s" * 32, template="ima-sig", signature=b"\x03\x02\x04" + bytes(70)),
        ima_log.violation("/var/log/journal"),
    ]


def _boot_logs() -> list[bytes]:
    return [bytes(sample_boot(boot_log.BootLog(banks))) for banks in (("sha1",), ("sha1", "sha256"))]


def _policies() -> list[bytes]:
    return [
        json.dumps(
            {
                "format": "attestream-policy/1",
                "bank": "sha256",
                "pcrs": {"7": ["00" * 32]},
                "runtime": {"digests": {"/bin/ls": ["sha256:" + "ab" * 32]}, "excludes": ["/var/cache/.*"]},
            }
        ).encode(),
        json.dumps(whole_policy()).encode(),
    ]


def _blobs() -> list[bytes]:
    return [build_pcr_blob((("sha256", (0, 10)),), {"sha256": {0: bytes(32), 10: b"x" * 32}})]


def _quote_texts() -> list[bytes]:
    return [build_quote_text(QuoteParts(quote, signature, _blobs()[0])).encode() for quote, signature in _quotes()]


def _device_events() -> list[bytes]:
    device = b"dm_version=4.45.0;name=root,uuid=CRYPT-VERITY-1,major=254,minor=0,minor_count=1,num_targets=1;"
    target = (
        b"target_index=0,target_begin=0,target_len=2048,target_name=linear,target_version=1.4.0,device_name=8:1,start=0;"
    )
    return [device + target]


def _certificates() -> list[bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TPM maker")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    return [builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)]


def _evm_entries() -> list[bytes]:
    fields = evm_fields(_KEY, {"security.selinux": b"label\0", "security.ima": ima_digest(b"d" * 32)})
    return [b"".join(sized(fields[name]) for name in evm.FIELDS)]


def _evm(data: bytes) -> object:
    fields = dict(zip(evm.FIELDS, templates.split_fields(data, len(evm.FIELDS)), strict=True))
    keys = KeyRing([SigningKey(_KEY.public_key())])
    return evm.why_unproven(fields, b"sha256:\0" + b"d" * 32, evm.Trust((keys,), (keys,), ("sha256",)))


def _boots() -> list[bytes]:
    return [bytes(boot(firmware())) for boot in (uki_boot, direct_boot)]


def _judged_boot(data: bytes) -> object:
    """Judge a log whose every PCR is as the log says: nothing but findings may come of it."""
    values = replay_bank(parser.parse_log(data), "sha256") or {}
    quoted = {pcr: values.get(pcr, bytes(32)) for pcr in _BOOT_RULES.pcrs}
    findings = Collector()
    appraise_boot_log(data, quoted, bank="sha256", rules=_BOOT_RULES, findings=findings, memo=EventMemo())
    return findings.all()


def _manifests() -> list[bytes]:
    entry = contents.Entry(kind="stream", name="EVENTS", size=1, sha256="", items=1, about={"config": {}, "state": {}})
    return [msgspec.json.encode(contents.Manifest(format=contents.FORMAT, version="1", at=1, entries=[entry]))]


def _rows() -> list[bytes]:
    data = msgspec.msgpack.encode(databases.Frame("t", ["a", "b"], [[1, b"x"], [None, "y"]]))
    # Not compressed, so that a mutation reaches what is inside.
    return [gzip.compress(len(data).to_bytes(4, "big") + data, compresslevel=0, mtime=0)]


def _every(log_reader: Callable[[bytes], object]) -> Callable[[bytes], object]:
    return lambda data: list(log_reader(data))  # type: ignore[call-overload]  # readers return iterators


_DECODERS: Final = [
    base.Decoder[base.Message](kind)
    for kind in {attestation.Inbound, commands.Command, *map(type, wire_examples.EXAMPLES.values())}
]


def _messages(data: bytes) -> object:
    decoded = None
    for decoder in _DECODERS:
        try:
            decoded = decoder.decode(data)
        except base.SchemaError:
            continue
    return decoded


TARGETS: Final = (
    Target("tpms_attest", structures.parse_quote, lambda: [quote for quote, _ in _quotes()]),
    Target("tpmt_signature", structures.parse_signature, lambda: [signature for _, signature in _quotes()]),
    Target("tpms_attest_certify", certification.parse_certification, lambda: [quote for quote, _ in _quotes()]),
    Target("tpm2b_public", public.parse_public, _publics),
    Target("tpml_pcr_selection", selection.parse_selection, lambda: [selection.build_selection((("sha256", (0, 10)),))]),
    Target("tpm2b_id_object", credential.parse_id_object, lambda: [b"\x00\x24\x00\x20" + bytes(34)]),
    Target("ima_binary", _every(lambda data: log.read_binary(data, "sha256")), lambda: [r.binary for r in _records()]),
    Target("ima_ascii", _every(lambda data: log.read_ascii(data, "sha256")), lambda: [r.ascii.encode() for r in _records()]),
    Target("ima_signature", signatures.parse_signature, lambda: [b"\x03\x02\x04" + bytes(4) + b"\x00\x40" + bytes(64)]),
    Target("evm", _evm, _evm_entries),
    Target("device_mapper", lambda data: device_mapper.parse_event("dm_table_load", data), _device_events),
    Target("event_log", parser.parse_log, _boot_logs),
    Target("event_log_dictionary", dictionary.to_dictionary, _boot_logs),
    Target("boot", _judged_boot, _boots),
    Target("signature_lists", lambda data: parse_signature_lists(data, "db"), lambda: [bytes(76)]),
    Target("device_path", device_path.device_path_text, lambda: [boot_log.file_path("\\EFI\\BOOT\\BOOTX64.EFI")]),
    Target("certificate", parse_certificate, _certificates),
    Target("policy", compile_policy, _policies),
    Target("messages", _messages, lambda: [base.encode(message) for message in wire_examples.EXAMPLES.values()]),
    Target("backup_manifest", contents.read_manifest, _manifests),
    Target("backup_rows", _every(lambda data: databases.frames(io.BytesIO(data))), _rows),
    Target("nkey", lambda data: NKey.from_seed(data.decode("latin-1")), lambda: [_USER.seed.encode()]),
    Target("bus_token", lambda data: token.read(data.decode("latin-1")), lambda: [_bus_token().encode()]),
    Target(
        "bus_credentials",
        lambda data: document.parse(data.decode("latin-1")),
        lambda: [document.write(document.Credentials(_bus_token(), _USER)).encode()],
    ),
    Target("pcr_blob", parse_pcr_blob, _blobs),
    Target("quote_text", lambda data: parse_quote_text(data.decode("utf-8", "replace")), _quote_texts),
    Target(
        "allowlist", lambda data: convert_allowlist(data.decode("utf-8", "replace")), lambda: [b"ab" * 32 + b"  /bin/ls"]
    ),
    *DOCUMENTS,
    *ARCHIVES,
    *INCUMBENT,
    *IDENTITY,
)
"""Every parser that reads what others send or have written."""


def named(name: str) -> Target:
    """Return the target called ``name``.

    :raises KeyError: when there is none.
    """
    return {target.name: target for target in TARGETS}[name]
