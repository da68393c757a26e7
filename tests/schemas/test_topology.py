from __future__ import annotations

import itertools

import pytest

from schemas import subjects, topology
from schemas.events import EventKind


def overlaps(first: str, second: str) -> bool:
    """Whether a subject exists that both patterns match."""
    for one, other in itertools.zip_longest(first.split("."), second.split(".")):
        if one == ">" or other == ">":
            return True
        if one is None or other is None:
            return False
        if one != other and "*" not in (one, other):
            return False
    return True


def test_names_are_unique():
    names = [stream.name for stream in topology.STREAMS]
    names += [bucket.name for bucket in topology.BUCKETS] + list(topology.OBJECT_BUCKETS)
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


def test_no_two_streams_take_the_same_message():
    for first, second in itertools.combinations(topology.STREAMS, 2):
        for one, other in itertools.product(first.subjects, second.subjects):
            assert not overlaps(one, other), (first.name, second.name)


@pytest.mark.parametrize("stream", topology.STREAMS, ids=lambda stream: stream.name)
def test_stream_is_bounded_or_keeps_one_message_for_each_subject(stream):
    assert stream.last_per_subject or (stream.max_age_s and stream.max_bytes)
    assert stream.doc.endswith(".")
    assert stream.marker_ttl_s == 0 or stream.message_ttl


@pytest.mark.parametrize("stream", [topology.EVIDENCE, topology.COMMANDS], ids=lambda stream: stream.name)
def test_work_is_kept_by_partition(stream):
    assert stream.work_queue
    assert f"partition({subjects.PARTITIONS},1)" in stream.transform.target
    assert stream.transform.source == stream.subjects[0]


def test_fences_are_kept_in_the_stream_that_they_guard():
    assert any(overlaps(subjects.event_fence(1), pattern) for pattern in topology.EVENTS.subjects)
    assert any(overlaps(subjects.result_fence(1), pattern) for pattern in topology.RESULTS.subjects)


def test_fences_are_no_results_and_no_agents_events():
    assert not overlaps(subjects.RESULT_FENCES, subjects.RESULTS)
    assert "fence" not in {kind.value for kind in EventKind}


def test_agent_can_be_told_of_revocations_but_not_make_them():
    republish = topology.REVOCATIONS.republish
    assert republish.source == subjects.REVOCATIONS
    assert not overlaps(republish.target.replace("{{wildcard(1)}}", "*"), subjects.REVOCATIONS)
    assert topology.REVOCATIONS.deny_delete


def test_policy_keys_do_not_meet():
    assert topology.policy_key("a.b", 1) != topology.policy_key("a", 1)
    assert topology.policy_key("a.b", 1) == "policy.a=b.1"
    assert topology.policy_keys("a.b") == "policy.a=b.*"
