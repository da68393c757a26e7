import pytest

from attestream.appraisal.clock import went_back
from attestream.appraisal.state import AttesterState
from attestream.interop.clock import UNSEEN, refusal, remembered
from attestream.tpm.structures import ClockInfo


def at(clock, resets, restarts, *, safe=True):
    return ClockInfo(clock, resets, restarts, safe)


NOW = at(5000, 3, 1)


@pytest.mark.parametrize(
    ("before", "now", "code"),
    [
        (UNSEEN, NOW, ""),
        (at(4999, 3, 1), NOW, ""),
        (at(5000, 3, 1), NOW, "quote.clock"),
        (at(5001, 3, 1), NOW, "quote.clock"),
        (at(1, 4, 1), NOW, "quote.reset-count"),
        (at(1, 3, 2), NOW, "quote.restart-count"),
        (at(9000, 2, 1), NOW, "quote.clock"),
        (at(9000, 3, 0), NOW, "quote.clock"),
        (at(9000, 2, 0), NOW, ""),
        (UNSEEN, at(5000, 3, 1, safe=False), "quote.clock-unsafe"),
        (UNSEEN, at(0, 0, 0), "quote.clock"),
    ],
)
def test_what_may_follow(before, now, code):
    assert refusal(before, now) == code


def test_the_old_clock_is_kept_when_both_counts_rose():
    assert remembered(at(9000, 2, 0), NOW) == at(9000, 2, 0)
    assert remembered(at(4000, 3, 1), NOW) == NOW
    assert remembered(at(4000, 2, 1), NOW) == NOW


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (at(9000, 3, 2), at(9100, 4, 0)),  # suspended, then rebooted: a TPM Reset sets the restart count to 0
        (at(9000, 3, 0), at(8000, 4, 0, safe=False)),  # power failure: the clock falls back to what was stored
        (at(9000, 3, 0), at(9000, 3, 0)),  # two quotes within a millisecond
    ],
)
def test_our_own_rule_lets_pass_what_a_good_tpm_does(before, now):
    """Issues of keylime: agents that fail after suspend and reboot, or after a power failure."""
    state = AttesterState(policy="x", reset_count=before.reset_count, restart_count=before.restart_count, clock=before.clock)
    assert refusal(before, now)
    assert went_back(now, state) == ""
