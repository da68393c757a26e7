"""Whose backup it is: the manifest bears the signature of the installation's registrar, which the roster vouches for.

The manifest tells the digest of every other file, so that one signature covers all of them together.
"""

from __future__ import annotations

from typing import Final

import msgspec

from attestream.errors import MalformedError, SignatureError
from attestream.signing import Signer, TrustedKeys, public_key
from schemas.roles import Role
from schemas.trust import Roster

MAX_BYTES: Final = 4096
"""Largest signature file."""

_PURPOSE: Final = b"attestream/backup/1\x00"
_REMEDY: Final = "If you know where the backup has been, name `--unsigned`: its whole content is believed then."


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: str
    algorithm: str
    signature: bytes


def sign(manifest: bytes, signer: Signer) -> bytes:
    """Return the content of the signature file for the bytes of a manifest."""
    signature = _Signature(signer.key_id, signer.algorithm, signer.sign_bytes(_PURPOSE + manifest))
    return msgspec.json.encode(signature) + b"\n"


def check(manifest: bytes, at: int, signature: bytes, roster: Roster) -> str:
    """Return the name of the registrar that has signed ``manifest``, which says that it was made ``at`` a time (Unix ms).

    Nothing but the signer's word tells that time, so that a key which was revoked vouches for no backup at all.

    :raises SignatureError: no registrar of the roster has, or its key does not count.
    :raises MalformedError: the signature can not be read.
    """
    try:
        found = msgspec.json.decode(signature, type=_Signature)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the signature of the backup can not be read: {error}") from error
    entry = next((key for key in roster.keys if key.key_id == found.key_id and key.role is Role.REGISTRAR), None)
    if entry is None:
        raise SignatureError(f"no registrar of this installation has the key {found.key_id[:64]!r}", remedy=_REMEDY)
    if entry.revoked_at or at < entry.not_before or (entry.not_after and at > entry.not_after):
        raise SignatureError(f"key {entry.key_id} of {entry.name}, which signed the backup, does not count", remedy=_REMEDY)
    keys = TrustedKeys([public_key(entry.public_key)])
    keys.verify(found.key_id, found.algorithm, _PURPOSE + manifest, found.signature)
    return entry.name


def unsigned() -> SignatureError:
    """Return what is wrong with a backup that nobody has signed."""
    return SignatureError("nobody has signed the backup", remedy=_REMEDY)
