"""Logs put together from pieces, and bytes unpacked with a bound."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.archive.logs import chain, cut
from attestream.archive.packing import MAX_BYTES, pack, unpack
from attestream.errors import MalformedError, TooLargeError
from devtools.pool import digest_of, make_agent
from schemas.archive import LogSegment


def segment(first, count, *, ascii_form=False):
    return LogSegment(
        agent_id="a", at=1, enrolment=1, reset_count=1, restart_count=0, first=first, count=count, ascii=ascii_form
    )


def pieces(*ranges):
    linked = chain([segment(first, count) for first, count in ranges])
    return [(piece.segment.first, piece.skip) for piece in linked.pieces], linked.entries, linked.missing


def test_pieces_follow_each_other():
    assert pieces((0, 3), (3, 2), (5, 1)) == ([(0, 0), (3, 0), (5, 0)], 6, False)


def test_what_is_there_already_is_skipped():
    assert pieces((0, 3), (1, 2), (2, 4)) == ([(0, 0), (2, 1)], 6, False)


def test_nothing_counts_behind_a_gap():
    assert pieces((0, 3), (5, 2)) == ([(0, 0)], 3, True)
    assert pieces((3, 2)) == ([], 0, True)


def test_a_whole_log_closes_a_gap_and_a_shorter_one_replaces_nothing():
    assert pieces((0, 3), (5, 2), (0, 8), (8, 1)) == ([(0, 0), (8, 0)], 9, False)
    assert pieces((0, 8), (0, 3), (8, 1)) == ([(0, 0), (8, 0)], 9, False)


def test_two_forms_are_never_mixed():
    linked = chain([segment(0, 3), segment(3, 1, ascii_form=True)])
    assert (len(linked.pieces), linked.missing) == (1, True)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=12))
def test_no_entry_is_missing_and_none_comes_twice(ranges):
    linked = chain([segment(first, count) for first, count in ranges])
    covered = [
        index
        for piece in linked.pieces
        for index in range(piece.segment.first + piece.skip, piece.segment.first + piece.segment.count)
    ]
    assert covered == list(range(linked.entries))


def test_entries_are_cut_at_their_ends():
    agent = make_agent("a")
    for number in range(4):
        agent.run(f"/usr/bin/{number}", digest_of(str(number)))
    records = [record.binary for record in agent.log]
    log = b"".join(records)
    assert cut(log, 1, 3, 5, ascii_form=False) == b"".join(records[1:4])
    with pytest.raises(MalformedError):
        cut(log, 3, 3, 6, ascii_form=False)
    assert cut(b"one\ntwo\nthree", 1, 2, 3, ascii_form=True) == b"two\nthree\n"
    assert cut(b"one", 0, 1, 1, ascii_form=True) == b"one\n"


@given(st.binary(max_size=2000))
def test_what_was_packed_is_unpacked(data):
    assert unpack(pack(data), len(data)) == data


def test_what_unpacks_to_something_else_is_refused():
    bomb = zlib.compress(bytes(50_000_000))
    for data, size in ((bomb, 10), (pack(b"abc"), 2), (pack(b"abc"), 4), (pack(b"abc") + b"x", 3), (b"abc", 3), (b"", 0)):
        with pytest.raises(MalformedError):
            unpack(data, size)
    for size in (-1, MAX_BYTES + 1):
        with pytest.raises(TooLargeError):
            unpack(pack(b""), size)
