"""Every worker computes the same, balanced shares, and most partitions stay when the pool changes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.verifier.membership import assign

NAMES = st.lists(st.text("abcdefgh0123", min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(NAMES, st.integers(1, 128))
def test_each_partition_has_one_owner_and_none_has_too_many(workers, partitions):
    shares = assign(workers, partitions)
    owned = sorted(partition for share in shares.values() for partition in share)
    assert owned == list(range(partitions))
    assert max(len(share) for share in shares.values()) <= math.ceil(partitions / len(workers))


@given(NAMES)
def test_the_order_of_the_list_does_not_matter(workers):
    assert assign(workers, 64) == assign(list(reversed(workers)) + workers, 64)


def test_nobody_owns_anything_in_an_empty_pool():
    assert assign([], 64) == {}


def test_most_partitions_stay_when_a_worker_leaves():
    before = assign(["a", "b", "c", "d"], 64)
    after = assign(["a", "b", "c"], 64)
    stayed = sum(len(set(before[name]) & set(after[name])) for name in after)
    assert stayed >= 36  # of the 48 that need not move
