"""The machine itself: QEMU with Debian's OVMF firmware, Secure Boot on, and swtpm behind the firmware's TPM interface."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from attestream.embedded.orphan import die_with_parent
from attestream.errors import ConfigError, TpmError
from devtools.swtpm import Swtpm
from devtools.vm.boot_disk import set_command_line
from devtools.vm.command import found
from devtools.vm.operator_shell import OperatorShell

MEMORY_MB: Final = 768
PROCESSORS: Final = 2

_FIRMWARE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd")
_VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
"""With the keys that Debian's shim is signed for, and Secure Boot on."""
_SWTPM_S: Final = 10.0
_END_S: Final = 15.0


class VirtualMachine:
    """One machine in ``directory``, switched off at first. What it writes on its console goes to ``logs``.

    :param accelerator: of QEMU; ``tcg`` emulates in software and works everywhere.
    """

    def __init__(self, directory: Path, logs: Path, *, accelerator: str = "tcg") -> None:
        self._directory = directory
        self._accelerator = accelerator
        self._sockets = Path()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tpm = Swtpm(directory / "tpm")
        self.logs = logs
        self.boots = 0
        """How often it was switched on."""
        self.operator: OperatorShell | None = None
        """A shell in the running machine; its init opens it when it is done."""

    def manufacture(self, *, boot_disk: Path, root_disk: Path) -> None:
        """Make the TPM with its certificates, and the machine's own copies of the disks and of the firmware's variables.

        :raises ConfigError: when the firmware is not installed.
        :raises TpmError: when swtpm is not installed or can not make a TPM.
        """
        for file in (_FIRMWARE, _VARIABLES):
            if not file.exists():
                raise ConfigError(f"{file} is not there: ovmf is not installed", remedy="Run `scripts/install --vm`.")
        self._directory.mkdir(parents=True)
        Swtpm.launch(self._tpm.state_dir).stop()
        for source, name in ((_VARIABLES, "variables.fd"), (boot_disk, "boot.img"), (root_disk, "root.img")):
            shutil.copyfile(source, self._directory / name)

    @property
    def ca_certificates(self) -> list[Path]:
        """Certificates of the CA that vouches for the TPM, PEM."""
        return self._tpm.ca_certificates

    @property
    def accident(self) -> str:
        """Which program has ended that nobody has ended; empty when all is well."""
        # swtpm ends with QEMU, so that QEMU, which was started last, is looked at first.
        for name, process in reversed(self._processes.items()):
            if process.poll() is not None:
                return f"{name} has ended by itself (status {process.returncode}); its logs are in {self.logs}"
        return ""

    @property
    def console(self) -> Path:
        """What the machine has written on its serial console since it was switched on last."""
        return self.logs / f"console-{self.boots}.log"

    def set_command_line(self, command_line: str) -> None:
        """Change the kernel's command line in the boot loader's configuration of the machine, which is switched off."""
        set_command_line(self._directory / "boot.img", command_line)

    def switch_on(self) -> None:
        """Start TPM and machine; returns at once, while the firmware begins to work.

        :raises ConfigError: when QEMU is not installed.
        :raises TpmError: when the TPM does not come up.
        """
        self.boots += 1
        self._sockets = Path(tempfile.mkdtemp(prefix="attestream-vm-"))  # a socket's path has 107 bytes at most
        control = self._sockets / "tpm"
        log = self.logs / f"swtpm-{self.boots}.log"
        tpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._directory / 'tpm' / 'tpm'}"]
        self._spawn("swtpm", [*tpm, "--ctrl", f"type=unixio,path={control}", "--log", f"file={log}"])
        deadline = time.monotonic() + _SWTPM_S
        while not control.exists():
            if self.accident or time.monotonic() > deadline:
                raise TpmError(f"swtpm does not come up; see {log}")
            time.sleep(0.01)
        self.console.touch()
        self._spawn("qemu", self._qemu(control, self._sockets / "operator"))
        self.operator = OperatorShell(self._sockets / "operator")

    def switch_off(self) -> None:
        """Have the machine power itself off, or pull the plug when it does not do so in 15 s."""
        if self.operator is not None and "qemu" in self._processes:
            self.operator.say("busybox sync; busybox poweroff -f")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes["qemu"].wait(_END_S)
        self.pull_the_plug()

    def pull_the_plug(self) -> None:
        """End QEMU and swtpm."""
        if self.operator is not None:
            self.operator.close()
            self.operator = None
        for name in ("qemu", "swtpm"):
            process = self._processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._sockets != Path():
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _qemu(self, tpm: Path, operator: Path) -> list[str]:
        disks = {"boot": "boot.img", "root": "root.img"}
        flash = "if=pflash,format=raw"
        return [
            *("qemu-system-x86_64", "-machine", "q35,smm=on", "-accel", self._accelerator, "-cpu", "max"),
            *("-smp", str(PROCESSORS), "-m", str(MEMORY_MB), "-nodefaults", "-display", "none", "-no-reboot"),
            # Secure Boot is none when the running system can write the firmware's variables.
            *("-global", "driver=cfi.pflash01,property=secure,value=on"),
            *("-drive", f"{flash},unit=0,readonly=on,file={_FIRMWARE}"),
            *("-drive", f"{flash},unit=1,file={self._directory / 'variables.fd'}"),
            *("-chardev", f"socket,id=tpm,path={tpm}", "-tpmdev", "emulator,id=tpm,chardev=tpm"),
            *("-device", "tpm-crb,tpmdev=tpm"),
            *(
                argument
                for number, (name, file) in enumerate(disks.items(), 1)
                for argument in (
                    *("-drive", f"if=none,id={name},format=raw,file={self._directory / file}"),
                    *("-device", f"virtio-blk-pci,drive={name},bootindex={number}"),
                )
            ),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-chardev", f"socket,id=operator,path={operator},server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=operator,name=operator"),
            *("-serial", f"file:{self.console}"),
        ]

    def _spawn(self, name: str, argv: list[str]) -> None:
        with (self.logs / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [found(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal is for the program that owns this object
                preexec_fn=die_with_parent,  # noqa: PLW1509 - see there
            )
