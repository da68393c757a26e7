"""What is checked before a runtime policy of the incumbent is stored."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from attestream.appraisal.document import load
from attestream.interop.excludes import compile_excludes
from attestream.interop.policy_signature import open_signed_policy
from attestream.interop.runtime_schema import check_runtime_policy
from attestream.reference.envelope import parse_envelope


class UploadedPolicy(NamedTuple):
    """A policy that may be stored."""

    policy: dict[str, Any]
    generator: int
    """How it was made: ``meta.generator``."""
    checksum: str
    """SHA-256 of the document as it came, in hex."""


def check_upload(document: bytes, *, key: bytes = b"", signed: bool = False) -> UploadedPolicy:
    """Return what ``document``, a runtime policy or an envelope with one, holds.

    :param key: PEM that verifies the signature, when ``signed``.
    :param signed: whether a signature is required.
    :raises PolicyError: when it is not a valid runtime policy; its excludes are checked under either name, ``excludes`` and
        ``exclude``.
    :raises SignatureError: when a signature is required and not valid.
    :raises MalformedError: when envelope or key can not be read.
    """
    top = load(document)
    compile_excludes(top.get("exclude"))
    if signed:
        policy = load(open_signed_policy(document, key))
    elif top.get("payload"):
        policy = load(parse_envelope(document).payload)
    else:
        policy = top
    check_runtime_policy(policy)
    compile_excludes(policy.get("exclude"))
    compile_excludes(policy["excludes"])
    return UploadedPolicy(policy, int(policy["meta"]["generator"]), hashlib.sha256(document).hexdigest())
