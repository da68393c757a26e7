"""A boot as a Linux machine with Secure Boot, shim, GRUB and a unified kernel image would log it, made up throughout."""

from __future__ import annotations

import hashlib
from struct import pack

from attestream.uefi import kinds
from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK
from devtools.boot_log import BootLog, file_path, image_load, load_option, partition_table, signature_list, variable

OWNER = "77fa9abd-0359-4d32-bd60-28f4e78f784b"
DISK = "3e3df7cb-b19f-40e0-a583-5dbc9cc0ac6e"
CERTIFICATE = b"\x30\x82\x01\x00" + bytes(range(256))
COMMAND_LINE = b"/vmlinuz root=/dev/vda2 ro ima_policy=tcb"
MOK_LIST = b"the machine owner's keys"
FORBIDDEN = [hashlib.sha256(bytes([number])).digest() for number in range(3)]


def sample_boot(log: BootLog, *, secure_boot: bool = True, separator: bytes = bytes(4)) -> BootLog:
    """Add the boot to ``log`` and return it."""
    log.add(0, kinds.S_CRTM_VERSION, "1.2.3\0".encode("utf-16-le"))
    log.add(0, kinds.EFI_PLATFORM_FIRMWARE_BLOB, pack("<QQ", 0x820000, 0xE0000), measured=b"firmware volume")
    _secure_boot_configuration(log, on=secure_boot)
    for pcr in range(8):
        log.add(pcr, kinds.SEPARATOR, separator)
    log.add(
        1, kinds.EFI_VARIABLE_BOOT, variable(GLOBAL_VARIABLE, "BootOrder", pack("<HH", 1, 0)), measured=pack("<HH", 1, 0)
    )
    option = load_option("Linux", file_path("\\EFI\\debian\\shimx64.efi"))
    log.add(1, kinds.EFI_VARIABLE_BOOT2, variable(GLOBAL_VARIABLE, "Boot0001", option))
    log.add(4, kinds.EFI_ACTION, b"Calling EFI Application from Boot Option")
    log.add(5, kinds.EFI_GPT_EVENT, partition_table(DISK, ["EFI", "root"]))
    accepted_by = variable(IMAGE_SECURITY_DATABASE, "db", bytes(16) + CERTIFICATE)
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, accepted_by)
    log.add(4, kinds.EFI_BOOT_SERVICES_APPLICATION, image_load(file_path("\\EFI\\debian\\shimx64.efi")), measured=b"shim")
    log.add(14, kinds.IPL, b"MokList\0", measured=MOK_LIST)
    log.add(14, kinds.IPL, b"MokListTrusted\0", measured=b"\x01")
    # Shim before 15.3 logs one byte more than it measures.
    authority = variable(SHIM_LOCK, "Shim", bytes(16) + CERTIFICATE)
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, authority + b"\0", measured=authority)
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, variable(SHIM_LOCK, "SbatLevel", b"sbat,1,2021030218\n"))
    _boot_loader(log)
    log.add(5, kinds.EFI_ACTION, b"Exit Boot Services Invocation")
    return log


def _secure_boot_configuration(log: BootLog, *, on: bool) -> None:
    databases = {
        "PK": (GLOBAL_VARIABLE, signature_list(CERT_X509, OWNER, [CERTIFICATE])),
        "KEK": (GLOBAL_VARIABLE, signature_list(CERT_X509, OWNER, [CERTIFICATE])),
        "db": (IMAGE_SECURITY_DATABASE, signature_list(CERT_X509, OWNER, [CERTIFICATE]) * 2),
        "dbx": (IMAGE_SECURITY_DATABASE, signature_list(CERT_SHA256, OWNER, FORBIDDEN)),
    }
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", bytes([on])))
    for name, (vendor, data) in databases.items():
        log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(vendor, name, data))


def _boot_loader(log: BootLog) -> None:
    log.add(8, kinds.IPL, b"grub_cmd: linux /vmlinuz\0", measured=b"linux /vmlinuz")
    log.add(8, kinds.IPL, b"kernel_cmdline: " + COMMAND_LINE + b"\0", measured=COMMAND_LINE)
    log.add(9, kinds.IPL, b"(hd0,gpt2)/vmlinuz\0", measured=b"kernel")
    name = ".linux\0".encode("utf-16-le")
    log.add(11, kinds.IPL, name, measured=b".linux\0")
    log.add(11, kinds.IPL, name, measured=b"the kernel's section")
    log.add(12, kinds.IPL, "quiet splash\0".encode("utf-16-le"))
    initrd = b"Linux initrd\0"
    log.add(9, kinds.EVENT_TAG, pack("<II", 0x8F3B22EC, len(initrd)) + initrd, measured=b"initrd")
