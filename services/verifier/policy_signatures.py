"""Signed policies: an installation can take only those that one of its keys has signed (docs/policies.md).

Only at the time of publishing: the record of a version is signed by a verifier, and says which key it has found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from attestream.errors import AttestreamError, ConfigError, MalformedError, PolicyError, SignatureError, TooLargeError
from attestream.reference.envelope import (
    POLICY_TYPE,
    PublicKey,
    key_fingerprint,
    load_verifying_key,
    parse_envelope,
    verify_envelope,
)

_REMEDY: Final = "Sign it with `attestream policy sign --key` by one of these, and push the envelope."
_SHOWN: Final = 16
"""Characters of a key's id in messages."""


def load_policy_keys(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Return the public keys in PEM files.

    :raises ConfigError: when one can not be read, or is of a kind that signs no policies.
    """
    keys = []
    for path in paths:
        try:
            keys.append(load_verifying_key(path.read_bytes()))
        except OSError as error:
            raise ConfigError(f"policy_keys: {path} can not be read: {error.strerror}") from error
        except AttestreamError as error:
            raise ConfigError(f"policy_keys: {path}: {error.message}") from error
    return tuple(keys)


def signer_of(envelope: bytes | None, digest: str, keys: Sequence[PublicKey]) -> str:
    """Return the id of the one of ``keys`` that has signed the document with SHA-256 ``digest`` (hex).

    :param envelope: that the document came in; None when it came without.
    :param keys: one of which must have signed; with none of them nothing needs to be signed, and the answer is empty.
    :raises SignatureError: when none has.
    :raises PolicyError: when the envelope can not be read, or holds another document.
    """
    if envelope is None:
        if keys:
            raise SignatureError(f"policies must be signed here, and this one is not; {_told(keys)}", remedy=_REMEDY)
        return ""
    try:
        opened = parse_envelope(envelope)
    except (MalformedError, TooLargeError) as error:
        raise PolicyError(f"the policy's envelope can not be read: {error.message}") from error
    if opened.payload_type != POLICY_TYPE or hashlib.sha256(opened.payload).hexdigest() != digest:
        raise PolicyError("the envelope does not hold the policy that was pushed with it")
    if not keys:
        return ""
    try:
        return key_fingerprint(verify_envelope(opened, keys))
    except SignatureError as error:
        raise SignatureError(f"policies must be signed here, and {error.message}; {_told(keys)}", remedy=_REMEDY) from error


def _told(keys: Sequence[PublicKey]) -> str:
    return "keys that may sign: " + ", ".join(f"{key_fingerprint(key)[:_SHOWN]}..." for key in keys)
