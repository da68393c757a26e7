"""The registrar's challenge: the credential file of tpm2-tools, and the tag that answers it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from attestream.errors import MalformedError
from attestream.tpm.marshalling import Reader

_MAGIC: Final = 0xBADCC0DE
_VERSION: Final = 1
_MAX_PART: Final = 1024


def parse_credential_file(data: bytes) -> tuple[bytes, bytes]:
    """Return (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET) of a credential file.

    :raises MalformedError: when it is not one: wrong magic or version, cut off, or with trailing bytes.
    """
    reader = Reader(data, "the credential file")
    if (reader.number(4), reader.number(4)) != (_MAGIC, _VERSION):
        raise MalformedError("this is not a credential file of tpm2-tools, version 1")
    id_object = reader.sized(_MAX_PART)
    secret = reader.sized(_MAX_PART)
    reader.finish()
    return len(id_object).to_bytes(2, "big") + id_object, len(secret).to_bytes(2, "big") + secret


def build_credential_file(id_object: bytes, encrypted_secret: bytes) -> bytes:
    """Return the credential file of what :func:`attestream.tpm.credential.make_credential` returns."""
    return _MAGIC.to_bytes(4, "big") + _VERSION.to_bytes(4, "big") + id_object + encrypted_secret


def registration_tag(secret: bytes, agent_id: str) -> str:
    """Return the tag that proves to the registrar that the agent has opened the credential.

    It is HMAC-SHA384 over the id in hex, and the key is the secret's base64 text, not the secret.
    """
    return hmac.new(base64.b64encode(secret), agent_id.encode("utf-8"), hashlib.sha384).hexdigest()
