from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream import errors
from attestream.bus.outcome import LONGEST_DELAY_S, Fate, decide
from schemas.base import SchemaError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.AttestreamError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.permanent])
def test_permanent_errors_are_dead_at_once(kind):
    outcome = decide(kind("no"), 1, 10)
    assert (outcome.fate, outcome.code, outcome.message) == (Fate.DEAD, kind.code, "no")


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if issubclass(kind, errors.BusError | errors.StorageError | errors.FencedError)]
)
def test_surroundings_that_fail_are_waited_for_however_long_it_takes(kind):
    outcome = decide(kind("away"), 1_000_000, 3)
    assert outcome.fate is Fate.RETRY
    assert LONGEST_DELAY_S / 2 <= outcome.delay_s <= LONGEST_DELAY_S


@pytest.mark.parametrize("error", [ValueError("bug"), errors.TpmError("busy"), RuntimeError("x" * 10_000)])
def test_everything_else_has_its_attempts(error):
    assert decide(error, 2, 3).fate is Fate.RETRY
    assert decide(error, 3, 3).fate is Fate.DEAD
    assert len(decide(error, 3, 3).message) <= 500


def test_message_that_can_not_be_decoded_is_malformed():
    outcome = decide(SchemaError("not MessagePack"), 1, 10)
    assert (outcome.fate, outcome.code, outcome.message) == (Fate.DEAD, "malformed", "not MessagePack")


@given(st.integers(min_value=0, max_value=10**9))
def test_delays_are_bounded(deliveries):
    outcome = decide(errors.BusError("away"), deliveries, 3)
    assert 0.1 <= outcome.delay_s <= LONGEST_DELAY_S
