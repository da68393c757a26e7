"""A private software TPM: swtpm on a Unix socket, made by swtpm_setup.

Nothing outside the state directory is read or written, but for the socket: the local CA that signs the EK certificates lives
there as well. swtpm serves one connection at a time and lets few wait: over TCP one client more loses a second or longer to
the retransmission of its SYN, on a Unix socket it waits its turn.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from attestream.errors import TpmError

BANKS: Final = ("sha1", "sha256")
"""PCR banks that are active by default: those that a machine with IMA usually has."""

_READY_S: Final = 10.0


def missing_tools() -> list[str]:
    """Return the names of the programs of swtpm that are not installed."""
    return [name for name in ("swtpm", "swtpm_setup", "swtpm_localca") if shutil.which(name) is None]


class Swtpm:
    """One emulated TPM 2.0. Its state survives :meth:`stop` and a later :meth:`start` on the same directory.

    :raises TpmError: from :meth:`start`, when swtpm is not installed or does not come up.
    """

    def __init__(self, state_dir: Path, *, banks: Sequence[str] = BANKS, certificates: bool = True) -> None:
        self.state_dir = state_dir
        self._banks = tuple(banks)
        self._certificates = certificates
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = Path()

    @classmethod
    def launch(cls, state_dir: Path, *, banks: Sequence[str] = BANKS, certificates: bool = True) -> Self:
        """Return a TPM that runs on ``state_dir``."""
        tpm = cls(state_dir, banks=banks, certificates=certificates)
        tpm.start()
        return tpm

    @property
    def tcti(self) -> str:
        """The TCTI string under which TSS2 programs reach the TPM; known after the first start."""
        return f"swtpm:path={self._socket}"

    @property
    def pid(self) -> int:
        """Process id of swtpm; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def ca_certificates(self) -> list[Path]:
        """PEM files of the CA that signed the EK certificates, the issuer first, then its root."""
        names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        return [path for name in names if (path := self.state_dir / "ca" / name).exists()]

    def start(self) -> None:
        """Start swtpm; make its state first where there is none. The TPM is started up with cleared PCRs."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.stop()
        if missing := missing_tools():
            raise TpmError(f"not installed: {', '.join(missing)}", remedy="Install the packages swtpm and swtpm-tools.")
        if not (self.state_dir / "tpm" / "tpm2-00.permall").exists():
            self._manufacture()
        if self._socket == Path():
            # Not in the state directory: the path of a socket has 107 bytes at most.
            self._socket = Path(tempfile.mkdtemp(prefix="swtpm-")) / "tpm"
        else:
            self._socket.parent.mkdir(mode=0o700)
        self._spawn()

    def stop(self) -> None:
        """End swtpm; its persistent state stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    def reboot(self) -> None:
        """Restart the TPM as a machine's reset does: PCRs are zero, ``resetCount`` is raised, the TCTI stays the same."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _manufacture(self) -> None:
        state, ca = self.state_dir / "tpm", self.state_dir / "ca"
        for directory in (state, ca):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        options, localca, setup = (self.state_dir / name for name in ("localca.options", "localca.conf", "setup.conf"))
        options.write_text("--platform-manufacturer Attestream\n--platform-version 1\n--platform-model swtpm\n")
        localca.write_text(
            f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\n"
            f"issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
        )
        setup.write_text(
            f"create_certs_tool= {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {localca}\n"
            f"create_certs_tool_options = {options}\nactive_pcr_banks = {','.join(self._banks)}\n"
        )
        command = ["swtpm_setup", "--tpm2", "--tpm-state", str(state), "--config", str(setup)]
        command += ["--pcr-banks", ",".join(self._banks), "--overwrite"]
        if self._certificates:
            command.append("--create-ek-cert")
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        if made.returncode != 0:
            raise TpmError(f"swtpm_setup failed: {made.stdout.strip()} {made.stderr.strip()}")

    def _spawn(self) -> None:
        control = f"{self._socket}.ctrl"  # where TSS2 looks for it
        process = self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state_dir / 'tpm'}"),
                *("--server", f"type=unixio,path={self._socket}", "--ctrl", f"type=unixio,path={control}"),
                *("--flags", "not-need-init,startup-clear", "--log", f"file={self.state_dir / 'swtpm.log'},truncate"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the program that owns this object, which then stops us
        )
        deadline = time.monotonic() + _READY_S
        while process.poll() is None and time.monotonic() < deadline:
            if _listens(str(self._socket)) and _listens(control):
                return
            time.sleep(0.005)
        self.stop()
        raise TpmError(f"swtpm does not come up; see {self.state_dir / 'swtpm.log'}")


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as trial, contextlib.suppress(OSError):
        trial.connect(path)
        return True
    return False
