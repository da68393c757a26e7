"""The disk that the firmware boots from: an EFI system partition with shim, GRUB, Debian's kernel and an initrd."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from devtools.vm.command import run
from devtools.vm.packages import unpack

SECTOR: Final = 512
FIRST_SECTOR: Final = 2048
SIZE_MB: Final = 64
COMMAND_LINE: Final = "root=/dev/vdb ro console=ttyS0 panic=-1 ima_policy=tcb ima_hash=sha256"
"""The kernel's command line on a machine in good order."""

_TOOL_S: Final = 60.0
_DISK_ID: Final = "6C3B4C0E-6F0B-4B0C-9F0B-0A77E57B0001"
_PARTITION_ID: Final = "6C3B4C0E-6F0B-4B0C-9F0B-0A77E57B0002"
_LAYOUT: Final = f"""\
label: gpt
label-id: {_DISK_ID}
start={FIRST_SECTOR}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid={_PARTITION_ID}, name=EFI
"""
_CONFIG: Final = """\
set timeout=0
linux /vmlinuz {command_line}
initrd /initrd.img
boot
"""
_FROM_DEBIAN: Final = {
    "BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
}
_MODULES: Final = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("virtio_blk", "failover", "net_failover", "virtio_net", "virtio_console"),
)
"""Kernel modules that the machine needs, each behind those that it depends on."""

_INIT: Final = """\
#!/bin/busybox sh
# Loads drivers and hands over to the root file system that the kernel's command line names.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in root=*) root=${{word#root=}} ;; esac
done
/bin/busybox mount -t ext4 -o rw $root /root
/bin/busybox umount /proc
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
"""


def boot_disk(archive: Path, cache: Path) -> Path:
    """Return an image of the boot disk, with :data:`COMMAND_LINE`. It is made anew each time, in about a second.

    :raises ConfigError: when a tool is missing, or the packages do not have what is needed.
    """
    work = cache / "boot"
    shutil.rmtree(work, ignore_errors=True)
    modules = tuple(f"./lib/modules/*/{name}.ko" for name in _MODULES)
    unpack(
        archive,
        work / "debian",
        only=("./boot/vmlinuz-*", "./bin/busybox", *(f"./{path}" for path in _FROM_DEBIAN.values()), *modules),
    )
    image = cache / "boot.img"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(SIZE_MB << 20)
    run(["sfdisk", "-q", image], timeout_s=_TOOL_S, given=_LAYOUT.encode())
    partition = _partition(image)
    run(["mformat", "-i", partition, "-F", "-v", "EFI", "-N", "A77E57B0", "-T", str(_sectors()), "::"], timeout_s=_TOOL_S)
    run(["mmd", "-i", partition, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"], timeout_s=_TOOL_S)
    debian = work / "debian"
    for name, source in _FROM_DEBIAN.items():
        _put(image, debian / source, f"EFI/BOOT/{name}")
    _put(image, next((debian / "boot").glob("vmlinuz-*")), "vmlinuz")
    _put(image, _initrd(work, debian), "initrd.img")
    set_command_line(image, COMMAND_LINE)
    shutil.rmtree(work)
    return image


def set_command_line(image: Path, command_line: str) -> None:
    """Have GRUB on ``image`` boot the kernel with ``command_line``; nothing else on the disk is changed.

    :raises ConfigError: when the image can not be written.
    """
    config = image.with_suffix(".grub.cfg")
    config.write_text(_CONFIG.format(command_line=command_line), encoding="ascii")
    _put(image, config, "EFI/debian/grub.cfg")
    config.unlink()


def _initrd(work: Path, debian: Path) -> Path:
    tree = work / "initrd"
    for name in ("bin", "modules", "proc", "dev", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(debian / "bin/busybox", tree / "bin")
    for name in _MODULES:
        shutil.copy(next((debian / "lib/modules").rglob(f"{name}.ko")), tree / "modules")
    init = tree / "init"
    init.write_text(_INIT.format(modules=" ".join(_MODULES)), encoding="ascii")
    init.chmod(0o755)
    names = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*"))
    archive = work / "initrd.img"
    run(
        ["cpio", "-o", "-H", "newc", "-R", "0:0", "--reproducible", "--quiet", "-F", archive.absolute()],
        timeout_s=_TOOL_S,
        cwd=tree,
        given="\n".join(names).encode(),
    )
    return archive


def _put(image: Path, source: Path, name: str) -> None:
    run(["mcopy", "-o", "-i", _partition(image), source, f"::/{name}"], timeout_s=_TOOL_S)


def _partition(image: Path) -> str:
    return f"{image}@@{FIRST_SECTOR * SECTOR}"


def _sectors() -> int:
    # The backup of the partition table takes the last 33 sectors of the disk.
    return (SIZE_MB << 20) // SECTOR - FIRST_SECTOR - 34
