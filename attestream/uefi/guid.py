"""EFI_GUID: text form and the ones that the event log is read by (UEFI 2.10, appendix A; EDK II; shim)."""

from __future__ import annotations

from struct import Struct
from typing import Final
from uuid import UUID

_GUID: Final = Struct("4s2s2s2s6s")

GLOBAL_VARIABLE: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY_DATABASE: Final = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SHIM_LOCK: Final = "605dab50-e046-4300-abb6-3dd810dd8b23"

CERT_SHA256: Final = "c1c41626-504c-4092-aca9-41f936934328"
CERT_X509: Final = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"


_FREQUENT: Final = {
    UUID(text).bytes_le: text for text in (GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK, CERT_SHA256, CERT_X509)
}
"""Those that each log has many times."""


def guid_text(data: bytes, at: int = 0) -> str:
    """Return the 16 bytes of ``data`` from ``at`` on as a lower-case GUID; the caller has checked that they are there."""
    frequent = _FREQUENT.get(data[at : at + 16])
    if frequent is not None:
        return frequent
    first, second, third, fourth, node = _GUID.unpack_from(data, at)
    # The first three are little-endian numbers; formatting numbers takes three times as long as turning bytes round.
    return f"{first[::-1].hex()}-{second[::-1].hex()}-{third[::-1].hex()}-{fourth.hex()}-{node.hex()}"
