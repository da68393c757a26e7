"""Typed claims about a boot, drawn only from events that quoted PCRs prove.

The order matters: replay, compare with the quote, and only then decode. An event of a PCR whose replay does not give the
quoted value says nothing. An event's data counts only where its digest is that of the data (PC Client Platform Firmware
Profile 1.06, section 10.4; for boot loaders: GRUB ``tpm.c``, shim ``tpm.c``, systemd ``boot/measure.c``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from msgspec.structs import replace

from attestream.errors import MalformedError
from attestream.uefi import claim_kinds as claim
from attestream.uefi import kinds
from attestream.uefi.device_path import device_path_text
from attestream.uefi.guid import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, guid_text
from attestream.uefi.layout import TPM, Layout
from attestream.uefi.loader_claims import COMMANDS, SECTIONS, grub_command, loader_claim
from attestream.uefi.log import Event, EventLog
from attestream.uefi.memo import Known
from attestream.uefi.replay import BANK_IDS, HASHERS, differing_pcrs, replay_bank
from attestream.uefi.scalars import c_text, utf16_text
from attestream.uefi.signatures import parse_signature_lists
from attestream.uefi.variables import is_boot_option, parse_boot_order, parse_load_option, parse_variable
from attestream.uefi.view import Measured

_DATABASES: Final = {
    GLOBAL_VARIABLE: frozenset({"PK", "KEK"}),
    IMAGE_SECURITY_DATABASE: frozenset({"db", "dbx", "dbt", "dbr"}),
}
_IMAGE_LOAD_HEADER: Final = 32
_SEPARATOR_ERROR: Final = b"\x01\0\0\0"
_GPT_DISK_GUID: Final = 56
_FIRMWARE: Final = frozenset(
    {
        kinds.POST_CODE,
        kinds.POST_CODE2,
        kinds.S_CRTM_CONTENTS,
        kinds.CPU_MICROCODE,
        kinds.TABLE_OF_DEVICES,
        kinds.NONHOST_CODE,
        kinds.NONHOST_CONFIG,
        kinds.NONHOST_INFO,
        kinds.PLATFORM_CONFIG_FLAGS,
        kinds.EFI_PLATFORM_FIRMWARE_BLOB,
        kinds.EFI_PLATFORM_FIRMWARE_BLOB2,
        kinds.EFI_HANDOFF_TABLES,
        kinds.EFI_HANDOFF_TABLES2,
        kinds.EFI_HCRTM_EVENT,
        kinds.EFI_SPDM_FIRMWARE_BLOB,
        kinds.EFI_SPDM_FIRMWARE_CONFIG,
    }
)


class Rejected(NamedTuple):
    """An event of a proven PCR that gives no claim: its number and why."""

    event: int
    reason: str


class BootClaims(NamedTuple):
    """What a log says that a quote proves.

    ``proven`` and ``differing`` are the quoted PCRs whose replay does, or does not, give the quoted value.
    ``rejected`` lists events whose data is not what was measured, or is malformed; a verifier that relies on the absence
    of something must look at it.
    """

    claims: tuple[claim.Claim, ...]
    proven: tuple[int, ...]
    differing: tuple[int, ...]
    rejected: tuple[Rejected, ...]

    def of(self, kind: type[claim.Claim]) -> tuple[claim.Claim, ...]:
        """Return the claims of one kind, in the order of the boot."""
        return tuple(found for found in self.claims if isinstance(found, kind))

    @property
    def secure_boot(self) -> bool | None:
        """Whether Secure Boot was on; None when nothing proves it."""
        found = [item.enabled for item in self.claims if isinstance(item, claim.SecureBoot)]
        return found[0] if len(found) == 1 else None


def draw_claims(
    log: EventLog, bank: str, quoted: Mapping[int, bytes], *, layout: Layout = TPM, known: Sequence[Known | None] = ()
) -> BootClaims:
    """Return the claims of ``log`` that the PCR values ``quoted`` prove: PCR -> value in ``bank``, from a checked quote.

    ``layout`` tells which PCR holds what. ``known`` is what a memo knows of each of the events; it only saves time.

    :raises MalformedError: when the log contradicts itself about the startup locality.
    """
    replayed = replay_bank(log, bank)
    if replayed is None:
        return BootClaims((), (), tuple(sorted(quoted)), ())
    differing = differing_pcrs(replayed, quoted, sorted(quoted))
    proven = tuple(pcr for pcr in sorted(quoted) if pcr not in differing)
    drawn: list[claim.Claim] = []
    rejected: list[Rejected] = []
    boot = _Boot(bank, layout)
    believed = frozenset(proven)
    recalled: Iterable[Known | None] = known if known and layout is TPM else repeat(None, len(log.events))
    for event, before in zip(log.events, recalled, strict=True):
        if event.pcr not in believed or event.kind == kinds.NO_ACTION:
            continue
        try:
            found = boot.read(event) if before is None else _recalled(boot, before, event)
        except MalformedError as error:
            rejected.append(Rejected(event.number, error.message))
            continue
        if found is not None:
            drawn.append(found)
    return BootClaims(tuple(drawn), proven, differing, tuple(rejected))


def _recalled(boot: _Boot, known: Known, event: Event) -> claim.Claim | None:
    """Return what ``boot`` reads in ``event``, unless that is remembered; what depends on other events is read each time."""
    if event.kind in _DEPENDENT or (event.kind == kinds.IPL and event.pcr == SECTIONS):
        return boot.read(event)
    found = known.claim
    if found is None:
        known.claim = found = boot.read(event)
    return found if found is None or found.event == event.number else replace(found, event=event.number)


class _Boot:
    """Reads the events of one boot in order: what an event may claim depends on those before it."""

    def __init__(self, bank: str, layout: Layout) -> None:
        self._bank = bank
        self._algorithm = BANK_IDS[bank]
        self._hasher = HASHERS[bank]
        self._commands = None if layout.loaders is not None else COMMANDS
        self._layout = layout
        self._separated: set[int] = set()
        self._section = ""
        self._config_seen: set[tuple[str, str]] = set()

    def read(self, event: Event) -> claim.Claim | None:
        kind = event.kind
        if kind == kinds.IPL and event.pcr == self._commands:
            # GRUB's commands are most of a log: they take a short way.
            for algorithm, digest in event.digests:
                if algorithm == self._algorithm and (command := grub_command(event, digest, self._hasher)):
                    return command
        measured = Measured(event, self._bank)
        if kind in _LOADERS:
            found, self._section = loader_claim(measured, self._section, self._layout)
            return found
        by_digest = _DIGEST_DECODERS.get(kind)
        if by_digest is not None:
            return by_digest(measured)
        decode = _DECODERS.get(kind)
        if decode is None:
            return None
        if event.kind == kinds.EFI_VARIABLE_AUTHORITY and measured.is_digest_of(event.data[:-1]):
            return decode(measured)  # shim before 15.3 logs a byte more than it measures
        measured.require(event.data)
        if event.kind == kinds.SEPARATOR:
            self._separated.add(event.pcr)
        if event.kind == kinds.EFI_VARIABLE_DRIVER_CONFIG and event.pcr == self._layout.secure_boot:
            return self._config(measured)
        return decode(measured)

    def _config(self, measured: Measured) -> claim.Claim:
        """Read Secure Boot configuration: not what the operating system could have measured, nor a second value."""
        event = measured.event
        variable = parse_variable(event)
        if event.pcr in self._separated:
            raise measured.refusal("is Secure Boot configuration behind the separator of its PCR")
        if (variable.vendor, variable.name) in self._config_seen:
            raise measured.refusal(f"gives the variable {variable.name!r} a second value")
        self._config_seen.add((variable.vendor, variable.name))
        if variable.vendor == GLOBAL_VARIABLE and variable.name == "SecureBoot":
            if variable.data not in (b"", b"\0", b"\x01"):
                raise measured.refusal(f"has a SecureBoot variable of {len(variable.data)} bytes that is neither 0 nor 1")
            return claim.SecureBoot(event.number, event.pcr, variable.data == b"\x01")
        if variable.name in _DATABASES.get(variable.vendor, ()):
            lists = parse_signature_lists(variable.data, f"{variable.name} in event {event.number} of the event log")
            return claim.SignatureDatabase(event.number, event.pcr, variable.name, lists)
        return _other_variable(measured)


def _image_load(measured: Measured) -> claim.Claim:
    event = measured.event
    text = device_path_text(event.data[_IMAGE_LOAD_HEADER:]) or ""
    return claim.ImageLoad(event.number, event.pcr, kinds.kind_name(event.kind), measured.digest, text)


def _boot_variable(measured: Measured) -> claim.Claim:
    event = measured.event
    variable = parse_variable(event)
    name_proven = measured.is_digest_of(event.data)
    if not name_proven:
        measured.require(variable.data)
    if variable.name == "BootOrder":
        entries = tuple(parse_boot_order(event, variable.data))
        return claim.BootOrder(event.number, event.pcr, entries, name_proven)
    if is_boot_option(variable.name):
        option = parse_load_option(event, variable.data)
        return claim.BootOption(event.number, event.pcr, variable.name, option, name_proven)
    return _other_variable(measured)


def _other_variable(measured: Measured) -> claim.Claim:
    event = measured.event
    variable = parse_variable(event)
    return claim.ConfigVariable(event.number, event.pcr, variable.vendor, variable.name, variable.data)


def _authority(measured: Measured) -> claim.Claim:
    event = measured.event
    variable = parse_variable(event)
    return claim.Authority(event.number, event.pcr, variable.vendor, variable.name, variable.data)


def _separator(measured: Measured) -> claim.Claim:
    event = measured.event
    return claim.Separator(event.number, event.pcr, hmac.compare_digest(event.data, _SEPARATOR_ERROR))


def _action(measured: Measured) -> claim.Claim:
    return claim.Action(measured.event.number, measured.event.pcr, c_text(measured.event.data))


def _version(measured: Measured) -> claim.Claim:
    data = measured.event.data
    text = utf16_text(data) if len(data) % 2 == 0 and not any(data[1:2]) else c_text(data)
    return claim.FirmwareVersion(measured.event.number, measured.event.pcr, text)


def _partitions(measured: Measured) -> claim.Claim:
    event = measured.event
    if len(event.data) < _GPT_DISK_GUID + 16:
        raise measured.refusal(f"has {len(event.data)} bytes: too few for a partition table")
    return claim.PartitionTable(event.number, event.pcr, guid_text(event.data, _GPT_DISK_GUID))


def _firmware(measured: Measured) -> claim.Claim:
    event = measured.event
    return claim.Firmware(event.number, event.pcr, kinds.kind_name(event.kind), measured.digest)


_DEPENDENT: Final = frozenset({kinds.SEPARATOR, kinds.EFI_VARIABLE_DRIVER_CONFIG})
_LOADERS: Final = frozenset({kinds.IPL, kinds.EVENT_TAG})
_DIGEST_DECODERS: Final[dict[int, Callable[[Measured], claim.Claim]]] = {
    **dict.fromkeys(_FIRMWARE, _firmware),
    **dict.fromkeys(kinds.IMAGE_LOADS, _image_load),
    kinds.EFI_VARIABLE_BOOT: _boot_variable,
    kinds.EFI_VARIABLE_BOOT2: _boot_variable,
}
"""Event types whose digest is not, or not always, that of their data -> decoder."""
_DECODERS: Final[dict[int, Callable[[Measured], claim.Claim]]] = {
    kinds.SEPARATOR: _separator,
    kinds.ACTION: _action,
    kinds.EFI_ACTION: _action,
    kinds.S_CRTM_VERSION: _version,
    kinds.EFI_VARIABLE_DRIVER_CONFIG: _other_variable,
    kinds.EFI_VARIABLE_AUTHORITY: _authority,
    kinds.EFI_GPT_EVENT: _partitions,
    kinds.EFI_GPT_EVENT2: _partitions,
}
"""Event types whose digest is that of their data -> decoder."""
