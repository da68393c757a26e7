"""Certificates in the TPM's NV memory (TCG EK Credential Profile for TPM 2.0, sections 2.2.1.4 and 2.2.1.5; TCG TPM 2.0 Keys
for Device Identity and Attestation, section 7.3.2).

Who has the owner's authorisation can write there: what is read is bounded, and nothing of it is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_CAP, TPMA_NV, TSS2_Exception

from schemas.enrolment import MAX_CERTIFICATES
from services.agent.tpm_transport import refused_for_good

CERTIFICATE_INDEX: Final = {"rsa2048": 0x01C00002, "p256": 0x01C0000A}
"""Kind of EK -> where its certificate is."""

EK_CHAIN: Final = range(0x01C00100, 0x01C00200)
"""Where the intermediates of EK certificates are."""

MAX_BYTES: Final = 24_576
"""Bytes that are read for one key: three keys with chains of this size fit into one enrolment request."""

_CHUNK: Final = 512
"""Bytes of one TPM2_NV_Read: every TPM gives as many."""


def ek_certificates(tpm: ESAPI, kind: str) -> list[bytes]:
    """Return the DER certificates that the manufacturer left: the EK's own, then its intermediates; none is no error.

    :raises TSS2_Exception: when the TPM is busy or away.
    """
    index = CERTIFICATE_INDEX[kind]
    own = certificates(tpm, range(index, index + 1))[:1]
    # Without a certificate the agent goes on; whether that will do is the registrar's decision.
    return (own + certificates(tpm, EK_CHAIN))[:MAX_CERTIFICATES] if own else []


def certificates(tpm: ESAPI, indexes: range) -> list[bytes]:
    """Return the DER items in the NV indexes of a range, at most :data:`schemas.enrolment.MAX_CERTIFICATES`.

    :raises TSS2_Exception: when the TPM is busy or away.
    """
    return list(islice(split_der(_contents(tpm, indexes)), MAX_CERTIFICATES))


def handles(tpm: ESAPI, wanted: range) -> list[int]:
    """Return the handles of a range that the TPM has, ascending."""
    _, capability = tpm.get_capability(TPM2_CAP.HANDLES, wanted.start, len(wanted))
    return sorted(handle for handle in map(int, capability.data.handles) if handle in wanted)


def _contents(tpm: ESAPI, indexes: range) -> Iterator[bytes]:
    left = MAX_BYTES
    for index in handles(tpm, indexes):
        try:
            data = _read(tpm, index, left)
        except TSS2_Exception as error:
            if not refused_for_good(error):
                raise
            continue  # not written yet, or only for the platform's firmware to read
        left -= len(data)
        yield data


def _read(tpm: ESAPI, index: int, limit: int) -> bytes:
    """Return the contents of an index; nothing when it is larger than ``limit``."""
    handle = tpm.tr_from_tpmpublic(index)
    public, _ = tpm.nv_read_public(handle)
    size = int(public.nvPublic.dataSize)
    if size > limit:
        return b""
    reader = handle if public.nvPublic.attributes & TPMA_NV.AUTHREAD else ESYS_TR.OWNER
    parts = (bytes(tpm.nv_read(handle, min(_CHUNK, size - at), at, auth_handle=reader)) for at in range(0, size, _CHUNK))
    return b"".join(parts)


def split_der(contents: Iterable[bytes]) -> Iterator[bytes]:
    """Return the DER SEQUENCEs in consecutive NV indexes: one may run over into the next index, and each may be padded."""
    rest = b""
    for data in contents:
        rest += data
        while (size := _der_size(rest)) and size <= len(rest):
            yield rest[:size]
            rest = rest[size:]
        if not size and (rest[:1] != b"\x30" or len(rest) >= _HEADER):
            rest = b""  # padding, or nothing that could go on in the next index


_HEADER: Final = 5
"""Most bytes of tag and length that are understood."""


def _der_size(data: bytes) -> int:
    """Return the size of the SEQUENCE that ``data`` starts with; 0 when it starts with none, or with too long a one."""
    if len(data) < 2 or data[0] != 0x30 or data[1] == 0x80:
        return 0
    if data[1] < 0x80:
        return 2 + data[1]
    octets = data[1] & 0x7F
    if octets > _HEADER - 2 or len(data) < 2 + octets:
        return 0
    size = 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")
    return size if size <= MAX_BYTES else 0
