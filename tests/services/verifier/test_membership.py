"""Who is to own what: even by load, the same for everybody, and with few moves."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.verifier.membership import IDLE, share_out

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
LOADS = st.lists(st.integers(0, 50_000), min_size=64, max_size=64)
NOBODY = [""] * 64


def totals(owners, loads):
    found = dict.fromkeys(owners, 0)
    for owner, load in zip(owners, loads, strict=True):
        found[owner] += load
    return found


def spread(owners, loads):
    found = totals(owners, loads)
    mean = sum(found.values()) / len(found)
    return max(abs(total - mean) / mean for total in found.values())


@given(NAMES, LOADS)
def test_every_partition_has_a_member_whatever_the_loads(workers, loads):
    owners = share_out(workers, loads, NOBODY)
    assert len(owners) == 64
    assert set(owners) <= set(workers)


@given(NAMES)
def test_partitions_without_agents_are_shared_out_by_number(workers):
    owners = share_out(workers, [0] * 64, NOBODY)
    counts = [owners.count(worker) for worker in workers]
    assert max(counts) - min(counts) <= 1


@given(NAMES, LOADS)
def test_the_order_of_the_list_does_not_matter(workers, loads):
    assert share_out(workers, loads, NOBODY) == share_out([*reversed(workers), *workers], loads, NOBODY)


@given(NAMES, LOADS)
def test_what_is_even_stays_where_it_is(workers, loads):
    owners = share_out(workers, loads, NOBODY)
    assert share_out(workers, loads, owners) == owners


@given(NAMES, LOADS, st.randoms(use_true_random=False))
def test_no_worker_exceeds_the_mean_by_more_than_one_partition(workers, loads, chance):
    owners = [chance.choice([*workers, "gone"]) for _ in range(64)]
    planned = share_out(workers, loads, owners)
    costs = [IDLE + load for load in loads]
    mean = sum(costs) / len(workers)
    assert max(totals(planned, costs).values()) <= mean + max(costs)


def test_unequal_partitions_are_within_a_tenth_after_a_join_and_a_leave():
    chance = random.Random(7)
    loads = [int(chance.paretovariate(1.2) * 1000) % 60_000 for _ in range(64)]
    owners = share_out(["a"], loads, NOBODY)
    for members in (["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"], ["a", "c", "d"], ["c", "d"]):
        owners = share_out(members, loads, owners)
        assert set(owners) == set(members)
        assert spread(owners, loads) < 0.1


def test_nobody_owns_anything_anew_in_an_empty_pool():
    assert share_out([], [0] * 64, ["a"] * 64) == ["a"] * 64


def test_only_what_the_leaver_had_moves_when_a_worker_leaves():
    before = share_out(["a", "b", "c", "d"], [100] * 64, NOBODY)
    after = share_out(["a", "b", "c"], [100] * 64, before)
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "d")
    assert len(set(after)) == 3


def test_a_newcomer_gets_its_share_and_nothing_moves_between_the_others():
    before = share_out(["a", "b", "c"], [100] * 64, NOBODY)
    after = share_out(["a", "b", "c", "d"], [100] * 64, before)
    assert all(new in (old, "d") for old, new in zip(before, after, strict=True))
    assert after.count("d") == 16
