"""The private swtpm: independent instances, a reset, and state that outlives the process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from attestream.errors import TpmError
from devtools import swtpm as module
from devtools.swtpm import Swtpm


def pcr(tpm: Swtpm) -> str:
    command = ["tpm2_pcrread", "-T", tpm.tcti, "sha256:16"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_run_side_by_side_and_a_reset_clears_pcrs(tmp_path: Path) -> None:
    with Swtpm.launch(tmp_path / "a", certificates=False) as a, Swtpm.launch(tmp_path / "b", certificates=False) as b:
        fresh, address = pcr(b), a.tcti
        assert a.tcti != b.tcti
        subprocess.run(["tpm2_pcrextend", "-T", a.tcti, f"16:sha256={'01' * 32}"], check=True)
        assert pcr(a) != fresh
        assert pcr(b) == fresh
        a.reboot()
        assert (pcr(a), a.tcti) == (fresh, address)
        pid = a.pid
    assert a.pid == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nothing_outside_the_state_directory_is_used(tmp_path: Path) -> None:
    with Swtpm.launch(tmp_path / "tpm") as tpm:
        assert [path.is_relative_to(tmp_path) for path in tpm.ca_certificates] == [True, True]
        # The TPM is started again on its state, not made anew.
        before = tpm.ca_certificates[0].read_bytes()
        tpm.stop()
        tpm.start()
        assert tpm.ca_certificates[0].read_bytes() == before


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.missing_tools() == ["swtpm", "swtpm_setup", "swtpm_localca"]
    with pytest.raises(TpmError, match="swtpm_setup"):
        Swtpm.launch(tmp_path / "tpm")
