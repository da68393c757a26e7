from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attestream.bus.window import PullWindow


@given(
    st.integers(min_value=1, max_value=100),
    st.lists(st.sampled_from(["message", "ended", "late", "reset"]), max_size=300),
    st.integers(min_value=0, max_value=1000),
)
def test_outstanding_stays_within_one_and_a_half_batches(batch, steps, left):
    window = PullWindow(batch)
    for step in steps:
        if window.due:
            window.opened()
        if step == "message":
            window.arrived()
        elif step == "ended":
            window.ended(window.generation, left)
        elif step == "late":
            before = window.outstanding
            window.ended(window.generation - 1, left)
            assert window.outstanding == before
        else:
            window.reset()
            assert window.due
        assert 0 <= window.outstanding <= batch + batch // 2


def test_pull_is_due_when_half_is_used():
    window = PullWindow(10)
    window.opened()
    for _ in range(4):
        window.arrived()
    assert not window.due
    window.arrived()
    assert window.due


def test_end_of_a_pull_frees_what_it_did_not_bring():
    window = PullWindow(10)
    window.opened()
    window.arrived()
    window.ended(0, 9)
    assert window.outstanding == 0
