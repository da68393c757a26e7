"""EK certificates in the TPM's NV memory (TCG EK Credential Profile for TPM 2.0, section 2.2.1.4 and 2.2.1.5)."""

from __future__ import annotations

from typing import Final

from tpm2_pytss import ESAPI, TPM2_CAP, TSS2_Exception
from tpm2_pytss.utils import NoSuchIndex, NVReadEK

from schemas.enrolment import MAX_CERTIFICATES

CERTIFICATE_INDEX: Final = {"rsa2048": 0x01C00002, "p256": 0x01C0000A}
"""Kind of EK -> where its certificate is."""

_CHAIN_FIRST: Final = 0x01C00100
_CHAIN_LAST: Final = 0x01C001FF
_MAX_CERTIFICATE: Final = 16_384


def ek_certificates(tpm: ESAPI, kind: str) -> list[bytes]:
    """Return the DER certificates that the manufacturer left: the EK's own, then its intermediates; none is no error.

    Intermediates are concatenated DER that may run over from one NV index into the next.
    """
    read = NVReadEK(tpm)
    try:
        own = split_der(read(CERTIFICATE_INDEX[kind]))[:1]
    except (NoSuchIndex, TSS2_Exception):
        # Without a certificate the agent goes on; whether that will do is the registrar's decision.
        return []
    if not own:
        return []
    chain = bytearray()
    for index in _chain_indexes(tpm):
        try:
            chain += read(index)
        except (NoSuchIndex, TSS2_Exception):
            break
    return (own + split_der(bytes(chain)))[:MAX_CERTIFICATES]


def _chain_indexes(tpm: ESAPI) -> list[int]:
    _, capability = tpm.get_capability(TPM2_CAP.HANDLES, _CHAIN_FIRST, _CHAIN_LAST - _CHAIN_FIRST + 1)
    found = (int(handle) for handle in capability.data.handles)
    return sorted(index for index in found if _CHAIN_FIRST <= index <= _CHAIN_LAST)


def split_der(data: bytes) -> list[bytes]:
    """Return the DER SEQUENCEs at the start of ``data``, up to the first byte that begins none (NV indexes are padded)."""
    items: list[bytes] = []
    at = 0
    while len(items) < MAX_CERTIFICATES and data[at : at + 1] == b"\x30":
        size = _der_size(data[at : at + 5])
        if not 0 < size <= _MAX_CERTIFICATE or at + size > len(data):
            break
        items.append(data[at : at + size])
        at += size
    return items


def _der_size(head: bytes) -> int:
    """Return header plus content length of the DER item that starts with ``head``; 0 when it has no definite length."""
    if len(head) < 2 or head[1] == 0x80:
        return 0
    if head[1] < 0x80:
        return 2 + head[1]
    octets = head[1] & 0x7F
    if octets > 3 or len(head) < 2 + octets:
        return 0
    return 2 + octets + int.from_bytes(head[2 : 2 + octets], "big")
