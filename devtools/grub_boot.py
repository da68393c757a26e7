"""A boot as Linux with Secure Boot, shim and GRUB logs it, made up throughout; it fits the ``example`` boot policy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from struct import pack

from attestream.uefi import kinds
from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK
from devtools.boot_log import BootLog, file_path, image_load, load_option, signature_list, variable

OWNER = "77fa9abd-0359-4d32-bd60-28f4e78f784b"
CERTIFICATE = b"\x30\x82\x01\x00" + bytes(range(256))
COMMAND_LINE = "(hd0,gpt2)/vmlinuz root=/dev/vda2 ro ima_policy=tcb"
FORBIDDEN = tuple(hashlib.sha256(bytes([number])).digest() for number in range(3))


def grub_boot(
    *,
    banks: Sequence[str] = ("sha1", "sha256"),
    locality: int | None = None,
    secure_boot: bool = True,
    db: Sequence[bytes] = (CERTIFICATE,),
    forbidden: Sequence[bytes] = FORBIDDEN,
    kernel: bytes = b"kernel",
    kernel_loads: int = 1,
    initrd: bytes = b"initrd",
    command_line: str = COMMAND_LINE,
    commands: Sequence[str] = ("insmod gzio",),
) -> BootLog:
    """Return the log of one boot. With ``locality`` an event tells at which the TPM was started.

    ``commands`` are those that GRUB runs before it loads the kernel.
    """
    log = BootLog(banks, locality=locality or 0)
    if locality is not None:
        log.add(0, kinds.NO_ACTION, b"StartupLocality\0" + bytes([locality]))
    log.add(0, kinds.S_CRTM_VERSION, "1.2.3\0".encode("utf-16-le"))
    for volume in (b"first volume", b"second volume"):
        log.add(0, kinds.EFI_PLATFORM_FIRMWARE_BLOB, pack("<QQ", 0x820000, 0xE0000), measured=volume)
    _keys(log, secure_boot=secure_boot, db=db, forbidden=forbidden)
    log.add(7, kinds.SEPARATOR, bytes(4))
    option = load_option("Linux", file_path("\\EFI\\debian\\shimx64.efi"))
    log.add(1, kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", pack("<HH", 1, 0)))
    log.add(1, kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "Boot0001", option))
    log.add(4, kinds.EFI_ACTION, b"Calling EFI Application from Boot Option")
    for pcr in range(7):
        log.add(pcr, kinds.SEPARATOR, bytes(4))
    _loaders(log, secure_boot=secure_boot)
    loads = kernel_loads if secure_boot else 0
    _linux(log, kernel=kernel, loads=loads, initrd=initrd, command_line=command_line, commands=commands)
    for action in (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"):
        log.add(5, kinds.EFI_ACTION, action)
    return log


def _keys(log: BootLog, *, secure_boot: bool, db: Sequence[bytes], forbidden: Sequence[bytes]) -> None:
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", bytes([secure_boot])))
    own = signature_list(CERT_X509, OWNER, [CERTIFICATE])
    allowed = b"".join(signature_list(CERT_X509, OWNER, [certificate]) for certificate in db)
    for vendor, name, data in (
        (GLOBAL_VARIABLE, "PK", own),
        (GLOBAL_VARIABLE, "KEK", own),
        (IMAGE_SECURITY_DATABASE, "db", allowed),
        (IMAGE_SECURITY_DATABASE, "dbx", signature_list(CERT_SHA256, OWNER, forbidden)),
    ):
        log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(vendor, name, data))


def _loaders(log: BootLog, *, secure_boot: bool) -> None:
    if secure_boot:
        accepted = variable(IMAGE_SECURITY_DATABASE, "db", bytes(16) + CERTIFICATE)
        log.add(7, kinds.EFI_VARIABLE_AUTHORITY, accepted)
    _load(log, "\\EFI\\debian\\shimx64.efi", b"shim")
    for name in (b"MokList\0", b"MokListX\0"):
        log.add(14, kinds.IPL, name, measured=b"the content of " + name)
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, variable(SHIM_LOCK, "SbatLevel", b"sbat,1,2021030218\n"))
    _load(log, "\\EFI\\debian\\grubx64.efi", b"grub")


def _linux(log: BootLog, *, kernel: bytes, loads: int, initrd: bytes, command_line: str, commands: Sequence[str]) -> None:
    log.add(9, kinds.IPL, b"(hd0,gpt2)/grub/grub.cfg\0", measured=b"the configuration of GRUB")
    for command in (*commands, f"linux {command_line}"):
        log.add(8, kinds.IPL, f"grub_cmd: {command}\0".encode(), measured=command.encode())
    log.add(9, kinds.IPL, b"(hd0,gpt2)/vmlinuz\0", measured=kernel)
    for _ in range(loads):
        _load(log, "\\vmlinuz", kernel)
    log.add(8, kinds.IPL, f"kernel_cmdline: {command_line}\0".encode(), measured=command_line.encode())
    log.add(9, kinds.IPL, b"(hd0,gpt2)/initrd.img\0", measured=initrd)


def _load(log: BootLog, path: str, image: bytes) -> None:
    log.add(4, kinds.EFI_BOOT_SERVICES_APPLICATION, image_load(file_path(path)), measured=image)
