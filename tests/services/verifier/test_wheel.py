"""The timer wheel gives each holder once, when it is due, and forgets what was replaced."""

from hypothesis import given
from hypothesis import strategies as st

from services.verifier.wheel import IDLE, TimerWheel


class Holder:
    def __init__(self, name):
        self.name = name
        self.slot = IDLE


def test_nothing_is_due_early():
    wheel = TimerWheel(0, 10)
    holder = Holder("a")
    wheel.set(holder, 100)
    assert wheel.advance(99) == []
    assert wheel.advance(100) == [holder]
    assert wheel.advance(1000) == []
    assert holder.slot == IDLE


def test_setting_again_replaces():
    wheel = TimerWheel(0, 10)
    holder = Holder("a")
    wheel.set(holder, 100)
    wheel.set(holder, 500)
    assert wheel.advance(400) == []
    assert wheel.advance(500) == [holder]


def test_cancelled_is_forgotten():
    wheel = TimerWheel(0, 10)
    holder = Holder("a")
    wheel.set(holder, 100)
    wheel.cancel(holder)
    assert wheel.advance(1000) == []


def test_past_due_comes_with_the_next_turn():
    wheel = TimerWheel(1000, 10)
    wheel.advance(2000)
    holder = Holder("a")
    wheel.set(holder, 5)
    assert wheel.advance(2020) == [holder]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=50))
def test_each_is_due_once_and_not_before_its_last_time(timers):
    wheel = TimerWheel(0, 10)
    holders = [Holder(str(index)) for index in range(len(timers))]
    for holder, (first, last) in zip(holders, timers, strict=True):
        wheel.set(holder, first)
        wheel.set(holder, last)
    seen = {}
    for now in range(0, 3100, 7):
        for holder in wheel.advance(now):
            assert holder.name not in seen
            seen[holder.name] = now
    for holder, (_, last) in zip(holders, timers, strict=True):
        assert last <= seen[holder.name] < last + 20
