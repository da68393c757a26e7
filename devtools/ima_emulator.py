"""An IMA emulator: appends to a measurement log as the kernel does and extends PCR 10 of a TPM that is no kernel's.

It writes ``binary_runtime_measurements`` and ``ascii_runtime_measurements`` in a directory, log first and then PCR, as
``ima_add_template_entry`` of the kernel (``ima_queue.c``).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_CAP, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from attestream.errors import AttestreamError, TpmError
from devtools.ima_log import Record, extend_value, record, violation
from services.agent import tpm_pcrs
from services.agent.tpm_transport import Transport

BINARY_LOG: Final = "binary_runtime_measurements"
ASCII_LOG: Final = "ascii_runtime_measurements"

_IMA_PCR: Final = 10
_BANKS: Final = {"sha1": TPM2_ALG.SHA1, "sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}


class ImaEmulator:
    """The log in ``directory`` and PCR 10 of the TPM at ``tcti``, kept in step; several processes may share them.

    :param template: ``ima-ng`` or ``ima-sig``.
    :param busy_s: how long a TPM that is busy or away is waited for, in seconds.
    :raises TpmError: from each operation, when the TPM can not be used; the log is then as it was before.
    """

    def __init__(self, directory: Path, tcti: str, *, template: str = "ima-ng", busy_s: float = 5.0) -> None:
        self.directory = directory
        self.binary_log = directory / BINARY_LOG
        self.ascii_log = directory / ASCII_LOG
        self._template = template
        self._transport = Transport(tcti, busy_s=busy_s)
        self._banks: list[str] = []

    def boot(self) -> Record:
        """Begin a new log with ``boot_aggregate``: the SHA-256 over PCRs 0-9 (kernel: ``ima_calc_boot_aggregate``).

        :raises TpmError: also when the TPM was not reset, which would leave log and PCR 10 apart.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            values = self._transport.run("read PCRs", lambda tpm: tpm_pcrs.read(tpm, {"sha256": range(_IMA_PCR + 1)}))[
                "sha256"
            ]
            if any(values[_IMA_PCR]):
                raise TpmError("PCR 10 is extended already", remedy="Restart the TPM before a new boot is emulated.")
            for log in (self.binary_log, self.ascii_log):
                # A new file, not a truncated one: readers of the old boot's log keep it until they look again.
                beside = log.with_name(f".{log.name}.new")
                beside.write_bytes(b"")
                beside.replace(log)
            aggregate = hashlib.sha256(b"".join(values[index] for index in range(_IMA_PCR))).digest()
            return self._measure(record("boot_aggregate", aggregate, template=self._template), lambda: None, pcr_first=False)

    def run(
        self,
        path: str,
        content: bytes | None = None,
        *,
        digest: bytes | None = None,
        signature: bytes = b"",
        between: Callable[[], None] = lambda: None,
        pcr_first: bool = False,
    ) -> Record:
        """Measure a program or file: its ``content``, or the SHA-256 ``digest`` of it.

        :param between: called when one of log and PCR is done and the other is not: the race that readers must stand.
        :param pcr_first: extend the PCR before the log is written, the other way round than the kernel.
        :raises ValueError: unless exactly one of ``content`` and ``digest`` is given.
        """
        if (content is None) == (digest is None):
            raise ValueError("give either content or digest")
        measured = digest if digest is not None else hashlib.sha256(content or b"").digest()
        with self._locked():
            made = record(path, measured, template=self._template, signature=signature)
            return self._measure(made, between, pcr_first=pcr_first)

    def violate(self, path: str) -> Record:
        """Log a violation of ``path``: zeros in the log, ones into the PCR."""
        with self._locked():
            return self._measure(violation(path, template=self._template), lambda: None, pcr_first=False)

    def _measure(self, made: Record, between: Callable[[], None], *, pcr_first: bool) -> Record:
        if pcr_first:
            self._extend(made)
            between()
            self._append(made)
            return made
        sizes = [(log, log.stat().st_size) for log in (self.binary_log, self.ascii_log)]
        self._append(made)
        between()
        try:
            self._extend(made)
        except AttestreamError:
            for log, size in sizes:
                with log.open("r+b") as file:
                    file.truncate(size)
            raise
        return made

    def _append(self, made: Record) -> None:
        # One write each: a reader sees all of an entry or nothing.
        with self.ascii_log.open("ab", buffering=0) as file:
            file.write(f"{made.ascii}\n".encode("utf-8", "surrogateescape"))
        with self.binary_log.open("ab", buffering=0) as file:
            file.write(made.binary)

    def _extend(self, made: Record) -> None:
        self._transport.run("extend PCR 10", lambda tpm: self._extend_all(tpm, made))

    def _extend_all(self, tpm: ESAPI, made: Record) -> None:
        if not self._banks:
            self._banks = _active_banks(tpm)
        digests = [TPMT_HA(hashAlg=_BANKS[bank], digest=TPMU_HA(**{bank: extend_value(made, bank)})) for bank in self._banks]
        tpm.pcr_extend(ESYS_TR.PCR10, TPML_DIGEST_VALUES(digests))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _active_banks(tpm: ESAPI) -> list[str]:
    _, capability = tpm.get_capability(TPM2_CAP.PCRS, 0, 16)
    names = {int(identifier): name for name, identifier in _BANKS.items()}
    active = [int(bank.hash) for bank in capability.data.assignedPCR if any(bytes(bank.pcrSelect))]
    if unknown := [hex(identifier) for identifier in active if identifier not in names]:
        raise TpmError(f"the TPM has PCR banks that this emulator can not extend: {', '.join(unknown)}")
    return [names[identifier] for identifier in active]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devtools.ima_emulator", description=__doc__)
    parser.add_argument("--tcti", required=True, help="TPM whose PCR 10 is extended, such as swtpm:host=127.0.0.1,port=2321")
    parser.add_argument("--directory", required=True, type=Path, help="directory of the two logs")
    parser.add_argument("--template", choices=("ima-ng", "ima-sig"), default="ima-ng")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("boot", help="begin a new log; the TPM must have been reset")
    violates = actions.add_parser("violation", help="log a violation")
    violates.add_argument("path")
    runs = actions.add_parser("run", help="measure a file")
    runs.add_argument("path", help="path in the log")
    what = runs.add_mutually_exclusive_group()
    what.add_argument("--content", type=Path, help="file with the content; default: the file PATH itself")
    what.add_argument("--digest", type=bytes.fromhex, help="SHA-256 of the content in hex")
    runs.add_argument("--pcr-first", action="store_true", help="extend the PCR before the log is written")
    runs.add_argument("--pause", type=float, default=0.0, help="seconds between log and PCR")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _arguments().parse_args(arguments)
    emulator = ImaEmulator(options.directory, options.tcti, template=options.template)
    try:
        if options.action == "boot":
            made = emulator.boot()
        elif options.action == "violation":
            made = emulator.violate(options.path)
        else:
            content = None if options.digest else (options.content or Path(options.path)).read_bytes()
            made = emulator.run(
                options.path,
                content,
                digest=options.digest,
                between=lambda: time.sleep(options.pause),
                pcr_first=options.pcr_first,
            )
    except (AttestreamError, OSError) as error:
        print(f"ima_emulator: {error}", file=sys.stderr)
        return 1
    print(made.ascii)
    return 0


if __name__ == "__main__":
    sys.exit(main())
