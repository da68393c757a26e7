"""Boots without GRUB, made up throughout: a unified kernel image (systemd-stub), and a kernel that the firmware starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import pack

from attestream.uefi import kinds
from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from devtools.boot_log import BootLog, file_path, image_load, signature_list, variable
from devtools.grub_boot import CERTIFICATE, FORBIDDEN, OWNER

SECTIONS = {".linux": b"the kernel", ".osrel": b"ID=debian", ".cmdline": b"root=/dev/vda2 ro", ".initrd": b"the initrd"}
LOAD_OPTIONS = "root=/dev/vda2 ro initrd=\\initrd.img"
_INITRD_TAG = 0x8F3B22EC
_LOAD_OPTIONS_TAG = 0x8F3B22ED


def firmware(*, secure_boot: bool = True, databases: Mapping[str, bytes] | None = None, bank: str = "sha256") -> BootLog:
    """Return the firmware's part of a log; ``databases`` (name -> signature lists) stand in for those of the sample."""
    log = BootLog((bank,))
    own = signature_list(CERT_X509, OWNER, [CERTIFICATE])
    contents = {"PK": own, "KEK": own, "db": own, "dbx": signature_list(CERT_SHA256, OWNER, FORBIDDEN), **(databases or {})}
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", bytes([secure_boot])))
    for name, data in contents.items():
        vendor = GLOBAL_VARIABLE if name in ("PK", "KEK") else IMAGE_SECURITY_DATABASE
        log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(vendor, name, data))
    for pcr in range(8):
        log.add(pcr, kinds.SEPARATOR, bytes(4))
    return log


def start(log: BootLog, path: str, image: bytes) -> None:
    """Add that the image at ``path`` was started."""
    log.add(4, kinds.EFI_BOOT_SERVICES_APPLICATION, image_load(file_path(path)), measured=image)


def uki_boot(
    log: BootLog,
    *,
    image: bytes = b"the unified kernel image",
    sections: Mapping[str, bytes] = SECTIONS,
    parameters: Sequence[str] = (),
) -> BootLog:
    """Add the start of a unified kernel image to ``log`` and return it; ``parameters`` are command lines given to it."""
    start(log, "\\EFI\\Linux\\debian.efi", image)
    for name, content in sections.items():
        text = f"{name}\0".encode("utf-16-le")
        log.add(11, kinds.IPL, text, measured=name.encode("ascii") + b"\0")
        log.add(11, kinds.IPL, text, measured=content)
    for line in parameters:
        log.add(12, kinds.IPL, f"{line}\0".encode("utf-16-le"))
    start(log, "", sections.get(".linux", b""))
    return log


def direct_boot(
    log: BootLog, *, kernel: bytes = b"the kernel", initrd: bytes = b"the initrd", load_options: str = LOAD_OPTIONS
) -> BootLog:
    """Add to ``log`` that the firmware starts a kernel, whose EFI stub measures what it was given, and return it."""
    start(log, "\\vmlinuz", kernel)
    for tag, label, measured in (
        (_LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0", f"{load_options}\0".encode("utf-16-le")),
        (_INITRD_TAG, b"Linux initrd\0", initrd),
    ):
        log.add(9, kinds.EVENT_TAG, pack("<II", tag, len(label)) + label, measured=measured)
    return log
