"""The TPM's own time: what goes back, what starts again, and what a reboot needs."""

import msgspec
import pytest

from attestream.appraisal.appraise import Verdict
from devtools.appraisal_bench import EVIL, codes


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reset_count": 1}, "quote.reset-count"),
        ({"restart_count": 1}, "quote.restart-count"),
        ({"clock": 1 << 40}, "quote.clock"),
    ],
)
def test_time_that_goes_back(bench, change, code):
    before = {name: getattr(bench.state, name) + more for name, more in change.items()}
    bench.state = msgspec.structs.replace(bench.state, **before)

    appraisal = bench.judge(bench.answer())

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, [code])
    assert appraisal.state.clock == bench.state.clock


def test_same_clock_twice_is_allowed(bench):
    evidence = bench.answer()
    bench.state = bench.judge(evidence).state

    assert bench.judge(evidence).verdict is Verdict.PASS


def test_after_a_reset_a_lower_clock_is_no_fault(bench):
    bench.state = msgspec.structs.replace(bench.state, clock=1 << 40)
    bench.agent.reboot()
    bench.run(0, 1, 2, 3)

    assert bench.round().verdict is Verdict.AGAIN
    assert bench.round().verdict is Verdict.PASS


@pytest.mark.parametrize("again", [(0,), (0, 1, 2), (0, 1, 2, 3, 4)], ids=["shorter log", "same log", "longer log"])
def test_reboot_needs_the_log_from_its_start(bench, again):
    bench.agent.reboot()
    bench.run(*again)

    appraisals = [bench.round()]
    if appraisals[0].verdict is Verdict.AGAIN:
        assert bench.state.ima_entries == 0
        assert bench.state.known_digest == b""
        appraisals.append(bench.round())

    assert appraisals[-1].verdict is Verdict.PASS
    assert bench.state.ima_entries == len(again)
    assert "quote.rebooted" in codes(appraisals[0])


def test_unclean_shutdown_is_only_noted(bench):
    bench.tpm.reboot(orderly=False)
    bench.agent.log.clear()
    bench.run(0)

    appraisal = bench.round()

    assert appraisal.verdict is not Verdict.FAIL
    assert {"quote.rebooted", "quote.clock-unsafe"} <= set(codes(appraisal))


def test_resume_from_suspend(bench):
    bench.tpm.resume()
    bench.run(3)

    assert bench.round().verdict is Verdict.AGAIN
    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 4


def test_reboot_does_not_excuse_a_forged_log(bench):
    bench.agent.reboot()
    bench.run(0)
    bench.round()
    bench.agent.run("/usr/bin/evil", EVIL)
    del bench.agent.log[-1]

    assert codes(bench.round()) == ["runtime.log-mismatch"]


def test_changed_firmware_warns(bench):
    bench.state = msgspec.structs.replace(bench.state, firmware=1)

    appraisal = bench.round()

    # The answer was bare, so the values are asked for once more.
    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["quote.firmware", "quote.values-missing"])
