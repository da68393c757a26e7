"""What proven events of a boot say. Each claim names its event by number, as in the log.

A digest is that of the bank that the claims were drawn from. Where a field is only the log's word, its description says
so: the PCRs prove what was measured, and the measurement does not always cover all that an event carries.
"""

from __future__ import annotations

import msgspec

from attestream.uefi.scalars import c_text
from attestream.uefi.signatures import SignatureList
from attestream.uefi.variables import LoadOption


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Base of all claims."""

    event: int
    pcr: int


class SecureBoot(Claim, frozen=True, gc=False):
    """The firmware's SecureBoot variable: whether it checks signatures of what it starts."""

    enabled: bool


class SignatureDatabase(Claim, frozen=True, gc=False):
    """A UEFI key or signature database: PK, KEK, db, dbx, dbt or dbr."""

    name: str
    lists: tuple[SignatureList, ...]


class ConfigVariable(Claim, frozen=True, gc=False):
    """Another variable that the firmware measures as Secure Boot configuration, for example DeployedMode."""

    vendor: str
    name: str
    data: bytes


class Authority(Claim, frozen=True, gc=False):
    """The entry of a database by which an image was accepted; ``name`` says whose: db, Shim, MokList, vendor_db."""

    vendor: str
    name: str
    data: bytes


class MachineOwnerKeys(Claim, frozen=True, gc=False):
    """What shim measures of its own key lists. ``name`` (MokList, MokListX, MokListTrusted ...) is only the log's word.

    ``enabled`` is known for one-byte switches, whose two possible values are tried against the digest.
    """

    name: str
    digest: bytes
    enabled: bool | None


class ImageLoad(Claim, frozen=True, gc=False):
    """A PE image that was started or a driver that was loaded: its Authenticode digest.

    ``path`` is the text of its device path and only the log's word.
    """

    kind: str
    digest: bytes
    path: str


class Firmware(Claim, frozen=True, gc=False):
    """Code or data of the platform, by digest: a firmware volume, tables, microcode. ``kind`` is the event type."""

    kind: str
    digest: bytes


class FirmwareVersion(Claim, frozen=True, gc=False):
    """The version string of the core root of trust of measurement (EV_S_CRTM_VERSION)."""

    text: str


class Separator(Claim, frozen=True, gc=False):
    """The line between firmware and operating system in a PCR. ``error`` tells that the firmware measured a failure."""

    error: bool


class Action(Claim, frozen=True, gc=False):
    """Something that the firmware did, in its own words (EV_ACTION, EV_EFI_ACTION)."""

    text: str


class BootOrder(Claim, frozen=True, gc=False):
    """The order in which the firmware tries boot options. Without ``name_proven`` that it is the order is the log's word."""

    entries: tuple[str, ...]
    name_proven: bool


class BootOption(Claim, frozen=True, gc=False):
    """A Boot#### variable. Without ``name_proven`` its number is only the log's word."""

    name: str
    option: LoadOption
    name_proven: bool


class PartitionTable(Claim, frozen=True, gc=False):
    """The GUID partition table of the boot disk, by the disk's GUID."""

    disk: str


class BootCommand(Claim, frozen=True, gc=False):
    """A command that GRUB ran, or a command line that it passed on. ``label`` (grub_cmd ...) is the log's word.

    ``command`` is the text as it was logged: there are hundreds, and few are looked at.
    """

    label: str
    command: bytes

    @property
    def text(self) -> str:
        """The command."""
        return c_text(self.command)


class KernelCommandLine(Claim, frozen=True, gc=False):
    """The kernel's command line, as ``source`` measured it: grub, systemd or linux."""

    text: str
    source: str


class LoadedFile(Claim, frozen=True, gc=False):
    """A file that the boot loader read, by the digest of its content. ``name`` is only the log's word."""

    name: str
    digest: bytes


class ImageSection(Claim, frozen=True, gc=False):
    """A section of a unified kernel image that systemd-stub measured: its proven name, and the digest of its content."""

    name: str
    digest: bytes


class TaggedEvent(Claim, frozen=True, gc=False):
    """An EV_EVENT_TAG event of a boot loader or kernel, by digest. ``tag`` and ``text`` are only the log's word."""

    tag: int
    text: str
    digest: bytes
