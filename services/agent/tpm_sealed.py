"""Secrets sealed by the TPM: blobs that this TPM alone opens (TPM 2.0 Part 1, section 29, "sealed data object").

The object has no password, as the AK has none: whoever may use the TPM of the running machine may open it, and a disk by
itself is worth nothing. It is not bound to PCR values: a machine that has booted something else must still be able to come
and be judged for it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from tpm2_pytss import (
    ESAPI,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_SENSITIVE_CREATE,
    TSS2_Exception,
)

from attestream.errors import MalformedError
from services.agent.tpm_objects import flush, storage_primary
from services.agent.tpm_templates import sealed_data
from services.agent.tpm_transport import refused_for_good

MAX_SECRET: Final = 128
"""Bytes that every TPM can seal (TPM 2.0 Part 2, MAX_SYM_DATA)."""


class _Blob(msgspec.Struct, frozen=True):
    public: bytes
    private: bytes


def seal(tpm: ESAPI, secret: bytes) -> bytes:
    """Return ``secret``, at most :data:`MAX_SECRET` bytes, as a blob that only this TPM opens (TPM2_Create)."""
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=secret))
    with storage_primary(tpm) as parent:
        private, public, *_ = tpm.create(parent, sensitive, sealed_data())
    return msgspec.msgpack.encode(_Blob(public.marshal(), private.marshal()))


def unseal(tpm: ESAPI, blob: bytes) -> bytes | None:
    """Return what was sealed (TPM2_Load, TPM2_Unseal), or None when another TPM has sealed it.

    :raises MalformedError: it is no such blob.
    """
    try:
        parts = msgspec.msgpack.decode(blob, type=_Blob)
        public, _ = TPM2B_PUBLIC.unmarshal(parts.public)
        private, _ = TPM2B_PRIVATE.unmarshal(parts.private)
    except (msgspec.DecodeError, UnicodeDecodeError, TSS2_Exception) as error:
        raise MalformedError("not a sealed secret") from error
    with storage_primary(tpm) as parent:
        try:
            handle = tpm.load(parent, private, public)
        except TSS2_Exception as error:
            # Format-one codes are about the blob that was given; any other says nothing of it.
            if not refused_for_good(error) or not error.fmt1:
                raise
            return None
    try:
        return bytes(tpm.unseal(handle))
    finally:
        flush(tpm, handle)
