"""An attestation key that is certified by the TPM's initial attestation key (IAK), as the registrar demands it."""

from __future__ import annotations

import contextlib
import hashlib

from attestream.errors import SignatureError
from attestream.tpm.certification import Certification, verify_certification
from attestream.tpm.public import Public


def check_certified_by_iak(agent_id: str, ak: Public, iak: Public, attest: bytes, signature: bytes) -> Certification:
    """Return the certification of ``ak`` by ``iak`` for this agent.

    The qualifying data is SHA-256 of the id; agents before API version 2.6 send the id itself.

    :raises SignatureError: when the IAK did not sign it, or it is about another key or agent.
    :raises MalformedError: when signature or certification is not well formed.
    :raises UnsupportedError: when an algorithm is not supported.
    """
    written = agent_id.encode("utf-8")
    digest = hashlib.sha256(written).digest()
    with contextlib.suppress(SignatureError):
        return verify_certification(iak, attest, signature, name=ak.name, extra_data=digest)
    return verify_certification(iak, attest, signature, name=ak.name, extra_data=written)


def check_certified_by_itself(ak: Public, challenge: bytes, attest: bytes, signature: bytes) -> Certification:
    """Return the certification of ``ak`` by itself over ``challenge``: proof of possession of a push agent.

    :raises SignatureError: when the key did not sign it, or it is about another key or challenge.
    :raises MalformedError: when signature or certification is not well formed.
    :raises UnsupportedError: when an algorithm is not supported.
    """
    return verify_certification(ak, attest, signature, name=ak.name, extra_data=challenge)
