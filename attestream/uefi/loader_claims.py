"""Claims from what boot loaders and the kernel's EFI stub measure: EV_IPL and EV_EVENT_TAG events.

Which PCR holds what: GRUB 8 (commands) and 9 (files); systemd-stub 11 (sections of a unified kernel image), 12 (command
line, configuration) and 13 (extensions); shim 14 (MOK lists); Linux EFI stub 9 (initrd, load options). Sources: GRUB
``grub-core/commands/tpm.c``, systemd ``src/boot/measure.c``, Linux ``drivers/firmware/efi/libstub/efi-stub-helper.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from attestream.uefi import claim_kinds as claim
from attestream.uefi import kinds
from attestream.uefi.layout import Layout
from attestream.uefi.log import Event
from attestream.uefi.scalars import c_text, utf16_text
from attestream.uefi.view import Measured

COMMANDS: Final = 8
_FILES: Final = 9
SECTIONS: Final = 11
_PARAMETERS: Final = 12
_OWNER_KEYS: Final = 14
_KERNEL_LABEL: Final = "kernel_cmdline"
_TAG: Final = Struct("<II")


def loader_claim(measured: Measured, section: str, layout: Layout) -> tuple[claim.Claim | None, str]:
    """Return the claim of the EV_IPL or EV_EVENT_TAG event ``measured``, and the section name that is then pending.

    ``section`` is the name of a section of a unified kernel image that the PCR proves to have been announced just before:
    systemd-stub measures a name and then the content, each with the name beside it.

    :raises MalformedError: when the event's data is not what was measured, where it should be.
    """
    pcr = measured.event.pcr
    if measured.event.kind == kinds.EVENT_TAG:
        return _tagged(measured), section
    if pcr == layout.loaders:
        command = _grub_command(measured)
        return (command, "") if command else _section(measured, section)
    if layout.loaders is None and pcr == SECTIONS:
        return _section(measured, section)
    return _DECODERS.get(pcr, _file)(measured), section


def _command(measured: Measured) -> claim.Claim:
    """GRUB's commands; or, of systemd-boot before 251, the whole command line, of which it logs one NUL byte too few."""
    command = _grub_command(measured)
    if command:
        return command
    event = measured.event
    if not measured.is_digest_of(event.data + b"\0"):
        measured.require(event.data)
    return claim.KernelCommandLine(event.number, event.pcr, _text(event.data), "systemd")


def _grub_command(measured: Measured) -> claim.Claim | None:
    return grub_command(measured.event, measured.digest, measured.hasher)


def grub_command(event: Event, digest: bytes, hasher: Callable[[bytes], Any]) -> claim.Claim | None:
    """Return the claim of an event of GRUB with ``digest`` in the bank of ``hasher``; None when GRUB did not measure it.

    GRUB measures the text behind a label, with or without its NUL.
    """
    label, space, text = event.data.partition(b" ")
    if not space or (hasher(text.removesuffix(b"\0")).digest() != digest and hasher(text).digest() != digest):
        return None
    name = "grub_cmd" if label == b"grub_cmd:" else c_text(label).removesuffix(":")
    if name == _KERNEL_LABEL:
        return claim.KernelCommandLine(event.number, event.pcr, c_text(text), "grub")
    return claim.BootCommand(event.number, event.pcr, name, text)


def _parameters(measured: Measured) -> claim.Claim:
    event = measured.event
    measured.require(event.data)
    return claim.KernelCommandLine(event.number, event.pcr, _text(event.data), "systemd")


def _file(measured: Measured) -> claim.Claim:
    event = measured.event
    return claim.LoadedFile(event.number, event.pcr, _text(event.data), measured.digest)


def _owner_keys(measured: Measured) -> claim.Claim:
    event = measured.event
    enabled = True if measured.is_digest_of(b"\x01") else False if measured.is_digest_of(b"\0") else None
    return claim.MachineOwnerKeys(event.number, event.pcr, c_text(event.data), measured.digest, enabled)


def _section(measured: Measured, section: str) -> tuple[claim.Claim, str] | tuple[None, str]:
    event = measured.event
    name = _text(event.data)
    if section and name == section:
        return claim.ImageSection(event.number, event.pcr, name, measured.digest), ""
    if measured.is_digest_of(name.encode() + b"\0"):
        return None, name
    return claim.LoadedFile(event.number, event.pcr, name, measured.digest), ""


def _tagged(measured: Measured) -> claim.Claim:
    event = measured.event
    if len(event.data) < _TAG.size:
        raise measured.refusal(f"has {len(event.data)} bytes: too few for a tagged event")
    tag, size = _TAG.unpack_from(event.data)
    body = event.data[_TAG.size :]
    if size != len(body):
        raise measured.refusal(f"is tagged as {size} bytes and has {len(body)}")
    text = _text(body)
    if event.pcr == _PARAMETERS and measured.is_digest_of(body):
        return claim.KernelCommandLine(event.number, event.pcr, text, "systemd")
    return claim.TaggedEvent(event.number, event.pcr, tag, text, measured.digest)


def _text(data: bytes) -> str:
    """Return a string that is UTF-16LE, as systemd writes it, or UTF-8: told apart by the second byte."""
    return utf16_text(data) if len(data) > 1 and len(data) % 2 == 0 and data[1] == 0 and data[0] else c_text(data)


_DECODERS: Final[dict[int, Callable[[Measured], claim.Claim]]] = {
    COMMANDS: _command,
    _PARAMETERS: _parameters,
    _OWNER_KEYS: _owner_keys,
}
"""PCR -> how its EV_IPL events are read."""
