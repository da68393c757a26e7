"""Targets that read what the incumbent's agents and tenants have written."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestream.appraisal import document
from attestream.ima.keys import KeyRing, SigningKey
from attestream.interop.boot_log import read_boot_log
from attestream.interop.credentials import build_credential_file, parse_credential_file
from attestream.interop.ima_list import Setting, appraise_list
from attestream.interop.keys import pem, public_of_pem
from attestream.interop.openpgp import ARMOUR, verify_openpgp
from attestream.interop.policy_upload import check_upload
from attestream.interop.runtime_conversion import policy_from_measurements, read_keyring, update_policy
from attestream.interop.runtime_policy import convert_runtime_policy
from attestream.interop.runtime_schema import empty_policy
from attestream.interop.tpm_policy import make_tpm_policy, read_tpm_policy
from attestream.tpm.credential import make_credential
from attestream.tpm.public import parse_public
from devtools import boot_log, ima_log
from devtools.evm_signature import sign
from devtools.sample_boot import sample_boot
from devtools.soft_tpm import SoftTpm
from fuzz.target import Target

_BODY: Final = b'{"a": 1}\n'
_SIGNER: Final = Ed25519PrivateKey.generate()
_FILE_KEY: Final = ec.generate_private_key(ec.SECP256R1())
_END: Final = b"\n-----END PGP PUBLIC KEY BLOCK-----\n"


def _packet(tag: int, body: bytes) -> bytes:
    return bytes((0xC0 | tag, len(body))) + body


def _number(value: bytes) -> bytes:
    bits = int.from_bytes(value, "big").bit_length()
    return bits.to_bytes(2, "big") + value[-((bits + 7) // 8) :]


def _openpgp_key() -> bytes:
    point = _number(b"\x40" + _SIGNER.public_key().public_bytes_raw())
    return _packet(6, b"\x04" + bytes(4) + b"\x16\x09" + bytes.fromhex("2b06010401da470f01") + point)


def _openpgp_signature() -> bytes:
    hashed = b"\x04\x00\x16\x08\x00\x00"
    digest = hashlib.sha256(_BODY + hashed + b"\x04\xff" + len(hashed).to_bytes(4, "big")).digest()
    value = _SIGNER.sign(digest)
    return _packet(2, hashed + b"\x00\x00" + digest[:2] + _number(value[:32]) + _number(value[32:]))


def _armoured(packets: bytes) -> bytes:
    return ARMOUR + b"\n\n" + base64.b64encode(packets) + _END


def _openpgp(data: bytes) -> object:
    """Take ``data`` for packets of a key, and behind the first zero line for a signature."""
    key, _, signature = data.partition(b"\n\n\n")
    return verify_openpgp(_armoured(key), signature, _BODY)


def _openpgp_block(data: bytes) -> object:
    return verify_openpgp(data, _openpgp_signature(), _BODY)


@cache
def _runtime_policy() -> dict[str, Any]:
    key = SigningKey(_FILE_KEY.public_key())
    ring = {"keyids": [key.keyid], "pubkeys": [base64.b64encode(key.der).decode()]}
    return empty_policy() | {
        "digests": {"/bin/ls": ["ab" * 32], "boot_aggregate": ["cd" * 20]},
        "excludes": ["/run(/.*)?", r"\w+[^a-f]{2,}$"],
        "keyrings": {".ima": ["ab" * 32]},
        "ima-buf": {"kexec-cmdline": ["ab" * 32]},
        "verification-keys": json.dumps(ring),
    }


def _upload(data: bytes) -> object:
    uploaded = check_upload(data)
    convert_runtime_policy(uploaded.policy)
    return update_policy(uploaded.policy, excludes=["/x"])


def _device_policy(data: bytes) -> object:
    return convert_runtime_policy({"ima": {"dm_policy": document.load(data)}})


def _device_policies() -> list[bytes]:
    numbers = dict.fromkeys(("uuid", "major", "minor", "minor_count", "num_targets"), 1)
    load = {"allow_multiple_loads": False, "name": "root", **numbers, "targets": [{"target_name": "linear"}]}
    rule = {
        "required": True,
        "device_resume_required": True,
        "allow_clear": False,
        "device_remove": {"allow_removal": True},
        "device_rename": {"valid_name": "ro+t", "valid_uuid": None},
        "table_load": load,
    }
    return [json.dumps({"version": 1, "match_on": "name", "rules": {"root": rule}}).encode()]


def _list(data: bytes) -> object:
    policy = convert_runtime_policy(_runtime_policy())
    keys = KeyRing([SigningKey(_FILE_KEY.public_key())])
    setting = Setting(policy, keys, "sha256", {"sha256": ["ab" * 32]}, violations_fail=True)
    return appraise_list(data.decode("utf-8", "surrogateescape").split("\n"), bytes(32), setting)


def _lists() -> list[bytes]:
    digest = b"d" * 32
    records = [
        ima_log.record("boot_aggregate", digest),
        ima_log.record("/bin/ls", digest, template="ima-sig", signature=sign(_FILE_KEY, digest, kind=3)),
        ima_log.buffer("kexec-cmdline", b"quiet"),
        ima_log.buffer(".ima", SigningKey(_FILE_KEY.public_key()).der),
        ima_log.violation("/var/log/journal"),
    ]
    return ["\n".join(one.ascii for one in records).encode()]


def _tpm_policy(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    return read_tpm_policy(text), make_tpm_policy(text, runtime=True, boot_pcrs=(0, 1))


def _credential_files() -> list[bytes]:
    tpm = SoftTpm(ek="p256", ak="p256")
    return [build_credential_file(*make_credential(parse_public(tpm.ek_public), tpm.ak_name, b"secret"))]


INCUMBENT: Final = (
    Target("openpgp", _openpgp, lambda: [_openpgp_key() + b"\n\n\n" + _openpgp_signature()]),
    Target("openpgp_block", _openpgp_block, lambda: [_armoured(_openpgp_key())]),
    Target("policy_upload", _upload, lambda: [json.dumps(_runtime_policy()).encode()]),
    Target("keylime_devices", _device_policy, _device_policies),
    Target("ima_list", _list, _lists),
    Target("ima_list_policy", lambda data: policy_from_measurements(data.decode("utf-8", "replace")), _lists),
    Target(
        "keyring",
        lambda data: read_keyring(data.decode("utf-8", "replace")),
        lambda: [_runtime_policy()["verification-keys"].encode()],
    ),
    Target("tpm_policy", _tpm_policy, lambda: [b'{"22": ["AB", "00"], "15": "cd", "mask": "0x408000"}']),
    Target("credential_file", parse_credential_file, _credential_files),
    Target(
        "boot_log_reading",
        lambda data: read_boot_log(data, "sha256"),
        lambda: [bytes(sample_boot(boot_log.BootLog(("sha1", "sha256"))))],
    ),
    Target(
        "public_pem",
        lambda data: public_of_pem(data.decode("latin-1")),
        lambda: [pem(parse_public(SoftTpm(ek="p256", ak="p256").ak_public)).encode()],
    ),
)
"""Every parser of the incumbent's forms, besides those of quotes, PCR blobs and allowlists."""
