"""Flat lists of digests."""

import tracemalloc

import pytest

from attestream.errors import PolicyError
from attestream.reference.collected import Collected
from attestream.reference.lists import add_flat_list


def test_lines_are_digests_and_paths():
    into = Collected()
    text = f"# all\n\n{'12' * 32}  /opt/a b\nsha512:{'34' * 64} *//opt/c\n{'56' * 32} %keyring:.ima"
    assert add_flat_list(text, into) == 3
    assert list(into.digests) == ["/opt/a_b", "//opt/c"]
    assert list(into.keyrings) == [".ima"]


@pytest.mark.parametrize("line", ["ab", f"md5:{'12' * 16} /weak", f"{'xy' * 32} /a", "# fine\nab"])
def test_another_line_is_named(line):
    number = line.count("\n") + 1
    with pytest.raises(PolicyError, match=f"line {number}"):
        add_flat_list(line, Collected())


def test_short_lines_take_no_memory():
    text = "##\n" * 100_000
    tracemalloc.start()
    try:
        assert add_flat_list(text, Collected()) == 0
        assert tracemalloc.get_traced_memory()[1] < len(text)
    finally:
        tracemalloc.stop()
