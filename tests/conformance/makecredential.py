"""Credentials: their key derivation, the protected secret, and blobs that the endorsement key must open."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestream.errors import AttestreamError
from attestream.interop.credentials import parse_credential_file, registration_tag
from attestream.interop.keys import read_public
from attestream.tpm.credential import kdf_a, kdf_e, open_credential, protect_secret
from tests.conformance.outcome import CannotRunError, Outcome

_KDF_A = re.compile(r"crypt_kdfa\((\w+), \w+, '(\w+)', ([^,]+), ([^,]+), (\d+)\)")
_KDF_E = re.compile(r"crypt_kdfe\((\w+), \w+, '(\w+)', \w+, \w+, (\d+)\)")


def run(case: Any, folder: Path) -> Outcome:
    try:
        return Outcome("pass", values=_values(case["call"], case["inputs"]))
    except AttestreamError:
        return Outcome("fail")


def _values(call: str, inputs: dict[str, str]) -> dict[str, object]:
    if derivation := _KDF_A.search(call):
        name, label, *contexts, bits = derivation.groups()
        context = b"".join(_context(text, inputs) for text in contexts)
        return {"out": kdf_a(name, bytes.fromhex(inputs["key"]), label.encode(), context, int(bits)).hex()}
    if derivation := _KDF_E.search(call):
        name, label, bits = derivation.groups()
        z, party_u, party_v = (bytes.fromhex(inputs[part]) for part in ("z", "party_u", "party_v"))
        return {"out": kdf_e(name, z, label.encode(), party_u, party_v, int(bits)).hex()}
    if "auth tag" in call:
        return {"auth_tag": registration_tag(base64.b64decode(inputs["secret"]), inputs["agent_id"])}
    if "secret_to_credential" in call:
        return {"tpm2b_id_object": _protected(inputs)}
    if "makecredential" in call:
        return _opened(inputs)
    raise CannotRunError(f"unknown call {call}")


def _context(text: str, inputs: dict[str, str]) -> bytes:
    """Return a context as the call names it: a literal, or an input in hex."""
    if text in ("b''", 'b""'):
        return b""
    others = [name for name in inputs if name != "key"]
    if text not in inputs and len(others) != 1:
        raise CannotRunError(f"no input for the context {text}")
    return bytes.fromhex(inputs[text if text in inputs else others[0]])


def _protected(inputs: dict[str, str]) -> str:
    ek = read_public(base64.b64decode(inputs["ek_tpm"]))
    seed, name = bytes.fromhex(inputs["seed"]), bytes.fromhex(inputs["name"])
    return protect_secret(ek, seed, name, base64.b64decode(inputs["secret"])).hex()


def _opened(inputs: dict[str, str]) -> dict[str, object]:
    """Open the blob where the private key is given; else check its form and the names: a TPM has opened it."""
    ek = read_public(base64.b64decode(inputs["ek_tpm"]))
    blob = parse_credential_file(base64.b64decode(inputs["credential_blob"]))
    if "ek_private_pem" not in inputs:
        name = read_public(base64.b64decode(inputs["ak_tpm"])).name.hex()
        return {"ak_name": name, "ak_name_per_tpm": name}
    private: Any = load_pem_private_key(inputs["ek_private_pem"].encode(), None)
    return {"secret": open_credential(private, ek, bytes.fromhex(inputs["ak_name"]), *blob).decode()}
