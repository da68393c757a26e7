"""A short round of the chaos suite; `make chaos` plays the long one."""

import json
import struct
import subprocess
import sys

import pytest

from devtools.chaos.__main__ import main
from devtools.chaos.injections import INJECTIONS
from devtools.chaos.skewed import Clock
from devtools.chaos.suite import Plan, run

ROUND = ("kill-worker", "freeze-worker", "kill-services", "kill-bus")


@pytest.mark.timeout(900)
async def test_nothing_is_lost_whichever_part_dies() -> None:
    """A worker is killed, one is stalled, registrar and notifier die together, and one of three bus servers dies."""
    told: list[str] = []
    plan = Plan(
        seed=1293,
        only=ROUND,
        agents=16,
        workers=2,
        database="sqlite",
        hosts=False,
        wounds=2,
        span_s=1.0,
        interval_ms=500,
        lease_ms=4000,
        patience_s=150,
    )
    tally = await run(plan, told.append)
    assert tally.wrong == [], "\n".join(told)
    assert dict(tally.injected) == dict.fromkeys(ROUND, 1)
    assert tally.failures == tally.events["failed"] == 2 * len(ROUND)
    assert tally.skipped.keys() == {"cut-host", "kill-database", "freeze-database"} | (tally.skipped.keys() & {"fill-disk"})


def test_a_process_follows_a_clock_that_is_set_while_it_runs(tmp_path) -> None:
    clock = Clock(tmp_path / "clock")
    (tmp_path / "reader.py").write_text(
        "import sys, time\n"
        "from attestream.clock import unix_ms\n"
        "for line in sys.stdin:\n"
        "    print([unix_ms(), int(time.time() * 1000), int(time.monotonic() * 1000)], flush=True)\n"
    )
    program = [sys.executable, "-m", "devtools.chaos.skewed", str(clock.path), "reader"]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": f"{tmp_path}:."}
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask() -> list[int]:
            process.stdin.write("\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        true = ask()
        clock.set(3_600_000)
        ahead = ask()
        clock.set(-3_600_000)
        behind = ask()
        process.stdin.close()
    for wall in (0, 1):
        assert 3_500_000 < ahead[wall] - true[wall] < 3_700_000
        assert 3_500_000 < true[wall] - behind[wall] < 3_700_000
    assert 0 <= ahead[2] - true[2] < 100_000
    assert struct.unpack("<q", clock.path.read_bytes()) == (-3_600_000_000_000,)


def test_every_injection_says_what_it_does(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos", "--list"])
    assert main() == 0
    said = capsys.readouterr().out
    for name, inject in INJECTIONS.items():
        assert f"{name} " in said
        assert inject.__doc__
        assert inject.__doc__ in said
