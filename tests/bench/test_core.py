"""What the bench makes of the core's figures and the incumbent's."""

import json
import sys

import pytest

from bench import core
from bench.incumbent import UnavailableError, run_driver
from bench.measuring import held_bytes, peak_bytes
from bench.report import Report


async def test_ratios_say_how_much_better_the_core_is(tmp_path, monkeypatch):
    ours = dict.fromkeys(core._ROWS, 200.0)
    monkeypatch.setattr(core, "write_samples", lambda directory: None)
    monkeypatch.setattr(core, "_ours", lambda directory: ours)
    theirs = {"ima_cold_entries_per_s": 100.0, "policy_100k_compile_ms": 1000.0}
    monkeypatch.setattr(core, "_theirs", lambda directory: (theirs, ["its boot logs (no tool)"]))
    report = Report(tmp_path / "bench.json", {})
    await core.report_core(report)
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["ima_cold_entries_per_s"] == 200
    assert figures["ima_cold_entries_per_s_vs_keylime"] == 2
    assert figures["policy_100k_compile_ms_vs_keylime"] == 5
    assert figures["policy_100k_compile_ms_of_keylime"] == 1000
    assert "policy_1m_compile_ms_vs_keylime" not in figures


def test_a_driver_that_fails_says_why():
    with pytest.raises(UnavailableError, match="No module named"):
        run_driver(sys.executable, ["bench.no_such_driver"])


def test_memory_that_is_held_is_not_the_peak():
    def make():
        # Larger than what the allocator may still have from other tests.
        return len(bytearray(200 << 20)).to_bytes(1_000_000, "big")

    assert 1_000_000 <= held_bytes(make) < 2_000_000
    assert peak_bytes(make) > 150 << 20
