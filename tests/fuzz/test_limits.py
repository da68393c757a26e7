"""The fuzzers notice what they are there for, and every parser takes its own seeds within the limits."""

import time

import pytest

from attestream.errors import MalformedError
from fuzz.limits import LEAST_SECONDS, LimitError, check, check_memory
from fuzz.target import Target
from fuzz.targets import TARGETS, named


def target(run):
    return Target("t", run, list)


FED_WITH_WHAT_IS_LIKE_IT = ("tpms_attest_certify", "signature_lists")
"""Targets whose seeds are only close to what they take."""


@pytest.mark.parametrize("each", TARGETS, ids=lambda each: each.name)
def test_the_first_seed_is_right_and_all_are_taken_and_so_is_every_truncation_of_them(each):
    seeds = each.seeds()
    assert seeds
    if each.name not in FED_WITH_WHAT_IS_LIKE_IT:
        each.run(seeds[0])
    for seed in seeds:
        check_memory(each, seed)
        for end in range(0, len(seed), max(1, len(seed) // 50)):
            check(each, seed[:end])


def test_our_own_errors_are_no_breach():
    def refuse(data):
        raise MalformedError("no")

    check(target(refuse), b"x")


def test_any_other_error_is_one():
    with pytest.raises(ZeroDivisionError):
        check(target(lambda data: 1 // 0), b"x")


def test_slowness_is_one():
    def spin(data):
        began = time.thread_time()
        while time.thread_time() < began + LEAST_SECONDS + 0.1:
            pass

    with pytest.raises(LimitError, match="took"):
        check(target(spin), b"x")


def test_greed_is_one():
    with pytest.raises(LimitError, match="allocated"):
        check_memory(target(lambda data: bytearray(4 << 20)), b"x")


def test_targets_have_names_of_their_own():
    assert len({each.name for each in TARGETS}) == len(TARGETS)
    assert named("event_log").name == "event_log"
