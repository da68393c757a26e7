from __future__ import annotations

import pytest

from attestream.bus.partitions import partition
from schemas import subjects


def test_partitions_are_even_and_within_bounds():
    counts = [0] * subjects.PARTITIONS
    for i in range(20_000):
        counts[partition(f"d432fbb3-d2f1-4a97-9ef7-75bd81c{i:05x}")] += 1
    assert min(counts) > 200
    assert max(counts) < 450


@pytest.mark.parametrize(("token", "value"), [("", 2_166_136_261), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_hash_is_the_published_fnv_1a(token, value):
    """Test vectors of the FNV reference code."""
    assert partition(token, 2**32) == value
