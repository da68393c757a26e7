"""EV_NO_ACTION events: what a log says of itself and of the platform.

They are never extended, so no PCR proves them: a verifier may use them to find reference values, never to trust.
Source: PC Client Platform Firmware Profile 1.06, section 10.4.5; for Windows: the Windows Boot Configuration Log.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from attestream.uefi.guid import guid_text
from attestream.uefi.kinds import NO_ACTION
from attestream.uefi.log import Event, EventLog
from attestream.uefi.replay import STARTUP_LOCALITY

_SIGNATURE_SIZE: Final = 16
_MANIFEST_SIZE: Final = 36
_NO_PCR: Final = 0xFFFFFFFF


class NoticeKind(StrEnum):
    """What an EV_NO_ACTION event is about."""

    STARTUP_LOCALITY = "startup-locality"
    REFERENCE_MANIFEST = "reference-manifest"
    HARDWARE_CRTM = "hardware-crtm"
    NV_INDEX = "nv-index"
    WINDOWS = "windows"
    OTHER = "other"


class Notice(NamedTuple):
    """An EV_NO_ACTION event. ``manifest`` is the GUID of the reference manifest that an SP 800-155 event names, or empty."""

    event: int
    kind: NoticeKind
    manifest: str
    data: bytes


_SIGNATURES: Final = {
    STARTUP_LOCALITY: NoticeKind.STARTUP_LOCALITY,
    b"SP800-155 Event\0": NoticeKind.REFERENCE_MANIFEST,
    b"SP800-155 Event2": NoticeKind.REFERENCE_MANIFEST,
    b"SP800-155 Event3": NoticeKind.REFERENCE_MANIFEST,
    b"H-CRTM CompMeas\0": NoticeKind.HARDWARE_CRTM,
    b"NvIndexInstance\0": NoticeKind.NV_INDEX,
    b"NvIndexDynamic\0\0": NoticeKind.NV_INDEX,
}


def notices(log: EventLog) -> tuple[Notice, ...]:
    """Return the EV_NO_ACTION events of ``log`` behind its header, in order."""
    return tuple(_notice(event) for event in log.events if event.kind == NO_ACTION)


def _notice(event: Event) -> Notice:
    kind = _SIGNATURES.get(event.data[:_SIGNATURE_SIZE], NoticeKind.OTHER)
    if kind is NoticeKind.OTHER and event.pcr == _NO_PCR:
        kind = NoticeKind.WINDOWS
    named = kind is NoticeKind.REFERENCE_MANIFEST and len(event.data) >= _MANIFEST_SIZE
    manifest = guid_text(event.data, _MANIFEST_SIZE - _SIGNATURE_SIZE) if named else ""
    return Notice(event.number, kind, manifest, event.data)
