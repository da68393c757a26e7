"""The signature that travels in a message's header (:mod:`schemas.trust`): written by authors, taken apart by readers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import msgspec

from attestream.errors import SignatureError
from attestream.signing import Signer
from schemas.trust import covered_bytes

MAX_HEADER: Final = 1024
"""Longest header that is looked at, in characters: an RSA signature of 4096 bits has 683."""

_SHAPE: Final = re.compile(r"([0-9a-f]{16})\.([a-z0-9-]{1,32})\.(0|[1-9][0-9]{0,14})\.([A-Za-z0-9_-]+)\Z", re.ASCII)


class Signature(msgspec.Struct, frozen=True):
    """What the header holds."""

    key_id: str
    algorithm: str
    signed_at: int
    """Unix time in milliseconds, by the author's clock."""
    signature: bytes


def sign(signer: Signer, subject: str, payload: bytes, signed_at: int) -> str:
    """Return the header for ``payload`` published on ``subject`` at ``signed_at`` (Unix ms)."""
    signature = signer.sign_bytes(covered_bytes(subject, signed_at, payload))
    return f"{signer.key_id}.{signer.algorithm}.{signed_at}.{_text(signature)}"


def parse(header: str) -> Signature:
    """Return the parts of a header.

    :raises SignatureError: when it is absent, or is none.
    """
    if not header:
        raise SignatureError("the message is not signed")
    match = _SHAPE.match(header) if len(header) <= MAX_HEADER else None
    if match is None:
        raise SignatureError("the signature's header can not be read")
    text = match[4]
    try:
        signature = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise SignatureError("the signature's header is not base64url") from error
    if _text(signature) != text:
        # One signature has one header, or what is remembered by it could come twice.
        raise SignatureError("the signature's header is not canonical")
    return Signature(key_id=match[1], algorithm=match[2], signed_at=int(match[3]), signature=signature)


def _text(signature: bytes) -> str:
    return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
