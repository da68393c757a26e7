"""File signatures, and the ids of the keys that make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from attestream.errors import MalformedError, UnsupportedError
from attestream.ima.keys import KeyRing, load_key
from attestream.ima.signatures import SignatureVerdict, parse_signature, verify_signature
from tests.conformance.outcome import CannotRunError, Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    try:
        if "signature_hex" in inputs:
            return _verify(inputs, folder)
        if "data" in inputs:
            return _kind(inputs)
        if "key" in inputs:
            return Outcome("pass", None, {"keyidv2": f"0x{load_key((folder / inputs['key']).read_bytes()).keyid:08x}"})
    except MalformedError:
        return Outcome("fail")
    raise CannotRunError("the case has neither a signature nor a key")


def _verify(inputs: Any, folder: Path) -> Outcome:
    keys = KeyRing([load_key((folder / inputs["key"]).read_bytes())])
    digest = f"{inputs['file_hash_alg']}:\x00".encode() + bytes.fromhex(inputs["file_hash_hex"])
    verdict = verify_signature(parse_signature(bytes.fromhex(inputs["signature_hex"])), digest, keys)
    return Outcome("pass" if verdict is SignatureVerdict.VALID else "fail")


def _kind(inputs: Any) -> Outcome:
    try:
        key = load_key(inputs["data"].encode("utf-8"))
    except UnsupportedError:
        return Outcome("fail")
    except MalformedError:
        return Outcome("fail", None, {"key": None, "keyidv2": None})
    # A certificate may name the id; otherwise it follows from the key, later.
    named = f"0x{key.keyid:08x}" if key.named else None
    kind = "RSA" if isinstance(key.public, RSAPublicKey) else "EC"
    return Outcome("pass", None, {"key": f"{kind}PublicKey", "keyidv2": named})
