"""The IMA emulator keeps the log and PCR 10 of a real TPM in step."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestream.errors import TpmError
from attestream.ima.log import read_ascii, read_binary
from attestream.ima.replay import Replay
from devtools.ima_emulator import ImaEmulator, main
from devtools.swtpm import Swtpm
from services.agent.tpm_device import TpmDevice


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Swtpm]:
    with Swtpm.launch(tmp_path / "swtpm", banks=("sha1", "sha256", "sha384"), certificates=False) as running:
        yield running


def check_in_step(emulator: ImaEmulator, tpm: Swtpm, entries: int) -> None:
    banks = {bank: [10] for bank in ("sha1", "sha256", "sha384")}
    for bank, values in TpmDevice(tpm.tcti, emulator.directory).read_pcrs(banks).items():
        for log, reader in ((emulator.binary_log, read_binary), (emulator.ascii_log, read_ascii)):
            replay = Replay(bank, b"", values[10])
            for entry in reader(log.read_bytes(), bank):
                replay.feed(entry.value)
            assert (replay.proven, replay.seen) == (entries, entries)


@pytest.mark.parametrize("template", ["ima-ng", "ima-sig"])
def test_log_and_pcrs_agree_in_every_bank(tpm: Swtpm, tmp_path: Path, template: str) -> None:
    emulator = ImaEmulator(tmp_path / "ima", tpm.tcti, template=template)
    emulator.boot()
    check_in_step(emulator, tpm, 1)
    emulator.run("/usr/bin/a program", b"content", signature=b"\x03\x02")
    emulator.run("/usr/bin/other", digest=hashlib.sha256(b"x").digest(), pcr_first=True)
    emulator.violate("/var/log/messages")
    check_in_step(emulator, tpm, 4)
    entries = list(read_binary(emulator.binary_log.read_bytes(), "sha256"))
    assert [entry.violation for entry in entries] == [False, False, False, True]
    assert entries[0].path == b"boot_aggregate"
    assert entries[1].digest == b"sha256:\x00" + hashlib.sha256(b"content").digest()


def test_boot_aggregate_covers_the_boot_pcrs(tpm: Swtpm, tmp_path: Path) -> None:
    emulator = ImaEmulator(tmp_path / "ima", tpm.tcti)
    first = emulator.boot()
    tpm.reboot()
    extend = ["tpm2_pcrextend", "-T", tpm.tcti, f"4:sha256={'ab' * 32}"]
    subprocess.run(extend, check=True)
    assert emulator.boot() != first
    check_in_step(emulator, tpm, 1)


def test_a_boot_needs_a_tpm_that_was_reset(tpm: Swtpm, tmp_path: Path) -> None:
    emulator = ImaEmulator(tmp_path / "ima", tpm.tcti)
    emulator.boot()
    emulator.run("/bin/x", b"x")
    before = emulator.binary_log.read_bytes()
    with pytest.raises(TpmError):
        emulator.boot()
    assert emulator.binary_log.read_bytes() == before
    tpm.reboot()
    emulator.boot()
    check_in_step(emulator, tpm, 1)


def test_what_the_tpm_did_not_take_is_not_logged(tpm: Swtpm, tmp_path: Path) -> None:
    emulator = ImaEmulator(tmp_path / "ima", tpm.tcti, busy_s=0.05)
    emulator.boot()
    before = emulator.binary_log.read_bytes(), emulator.ascii_log.read_bytes()
    tpm.stop()
    with pytest.raises(TpmError):
        emulator.run("/bin/x", b"x")
    assert (emulator.binary_log.read_bytes(), emulator.ascii_log.read_bytes()) == before


def test_the_command_line(tpm: Swtpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--tcti", tpm.tcti, "--directory", str(tmp_path / "ima")]
    program = tmp_path / "program"
    program.write_bytes(b"binary")
    assert main([*base, "boot"]) == 0
    assert main([*base, "run", "/bin/a", "--content", str(program)]) == 0
    assert main([*base, "run", "/bin/b", "--digest", "cd" * 32, "--pcr-first"]) == 0
    assert main([*base, "run", str(program)]) == 0
    assert main([*base, "violation", "/bin/d"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == (tmp_path / "ima" / "ascii_runtime_measurements").read_text().splitlines()
    assert f"sha256:{hashlib.sha256(b'binary').hexdigest()} /bin/a" in out[1]
    assert f"sha256:{'cd' * 32} /bin/b" in out[2]
    check_in_step(ImaEmulator(tmp_path / "ima", tpm.tcti), tpm, 5)
    assert main([*base, "run", str(tmp_path / "missing")]) == 1
    assert main([*base, "boot"]) == 1


def test_several_processes_share_one_log(tpm: Swtpm, tmp_path: Path) -> None:
    emulator = ImaEmulator(tmp_path / "ima", tpm.tcti)
    emulator.boot()
    command = [sys.executable, "-m", "devtools.ima_emulator", "--tcti", tpm.tcti, "--directory", str(emulator.directory)]
    running = [
        subprocess.Popen([*command, "run", f"/bin/{number}", "--digest", "00" * 32], stdout=subprocess.DEVNULL)
        for number in range(3)
    ]
    for number in range(10):
        emulator.run(f"/usr/bin/{number}", b"x")
    assert [process.wait(30) for process in running] == [0, 0, 0]
    check_in_step(emulator, tpm, 14)
