"""Lists as the incumbent judges them, where its way differs from ours."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import PolicyError, UnsupportedError
from attestream.interop.ima_list import ListState, Setting, appraise_list
from attestream.interop.runtime_policy import convert_runtime_policy
from devtools import ima_log

DIGEST = hashlib.sha256(b"content").digest()
LINES = [ima_log.record(f"/f{number}", DIGEST).ascii for number in range(6)]
BANK = "sha256"


def document(**parts):
    empty = {"digests": {}, "excludes": [], "keyrings": {}, "ima-buf": {}, "verification-keys": ""}
    ima = {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": None, **parts.pop("ima", {})}
    return {"meta": {"version": 1, "generator": 1}, "release": 0, **empty, "ima": ima, **parts}


ALL = convert_runtime_policy(document(digests={f"/f{number}": [DIGEST.hex()] for number in range(6)}))


def value_after(count):
    return appraise_list(LINES[:count], None, Setting(bank=BANK)).value


def polled(state, first, last, quoted, policy=ALL):
    return appraise_list(LINES[first:last], value_after(quoted), Setting(policy, bank=BANK), state)


def test_list_goes_on_where_the_last_quote_ended():
    one = polled(ListState(), 0, 4, 3)
    two = polled(one.state, 3, 6, 6)

    assert (one.event_ids, one.state.next_entry) == ((), 3)
    assert (two.event_ids, two.state.next_entry) == ((), 6)


def test_quote_must_catch_up_with_the_lines_it_was_behind():
    one = polled(ListState(), 0, 6, 2)

    assert polled(one.state, 2, 6, 6).event_ids == ()
    two = polled(one.state, 2, 6, 4)
    assert (two.event_ids, two.state) == (("ima.quote_progress",), ListState())


def test_poll_without_lines():
    one = polled(ListState(), 0, 3, 3)

    assert polled(one.state, 3, 3, 3).event_ids == ()
    assert polled(one.state, 3, 3, 4).event_ids == ("ima.pcr_mismatch",)


def test_any_failure_starts_the_list_over():
    one = polled(ListState(), 0, 3, 3)
    two = polled(one.state, 4, 6, 6)

    assert (two.event_ids, two.state) == (("ima.pcr_mismatch",), ListState())


def test_reference_values_hold_for_every_algorithm_and_in_lower_case_only():
    line = [ima_log.record("/a", DIGEST, hash_name="sm3").ascii]
    for listed, expected in ((DIGEST.hex(), ()), (DIGEST.hex().upper(), ("ima.validation.ima-ng.runtime_policy_hash",))):
        policy = convert_runtime_policy(document(digests={"/a": [listed]}))
        assert appraise_list(line, None, Setting(policy)).event_ids == expected


def test_bad_exclude_drops_all_of_them_or_is_refused():
    bad = document(excludes=["/f.", "("])
    with pytest.raises(PolicyError):
        convert_runtime_policy(bad)

    dropped = convert_runtime_policy(bad, strict=False)
    assert appraise_list(LINES[:1], None, Setting(dropped)).event_ids == ("ima.validation.ima-ng.not_in_allowlist",)


def test_exclude_that_can_not_be_expressed_is_refused_in_either_way():
    for strict in (True, False):
        with pytest.raises(UnsupportedError):
            convert_runtime_policy(document(excludes=["(?=/f)"]), strict=strict)


def test_excludes_match_from_the_start():
    policy = convert_runtime_policy(document(excludes=["/f"]))

    assert appraise_list(LINES, None, Setting(policy)).event_ids == ()


def test_a_sig_that_is_not_well_formed_counts_as_absent():
    line = ima_log.record("/a", DIGEST, template="ima-sig", signature=b"\x03\x02").ascii

    assert appraise_list([line], None, Setting()).event_ids == ("ima.validation.ima_hash",)


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"digests": []}, "digests"),
        ({"digests": {"/a": "00"}}, "digests['/a']"),
        ({"ima": {"log_hash_alg": "md5"}}, "ima.log_hash_alg"),
        ({"ima": {"ignored_keyrings": "*"}}, "ima.ignored_keyrings"),
        ({"ima": {"dm_policy": {"rules": {"x": {}}}}}, "ima.dm_policy"),
        ({"ima": {"dm_policy": {"rules": {}}}}, "ima.dm_policy"),
        ({"verification-keys": "{"}, "verification-keys"),
        ({"verification-keys": '{"pubkeys": ["AAAA"], "keyids": [1]}'}, "verification-keys.pubkeys[0]"),
        ({"verification-keys": '{"pubkeys": 1}'}, "verification-keys"),
    ],
)
def test_what_is_not_such_a_policy_is_named(parts, place):
    with pytest.raises(PolicyError) as caught:
        convert_runtime_policy(document(**parts))

    assert caught.value.message.startswith(place)


@given(st.lists(st.text(max_size=60) | st.sampled_from(LINES), max_size=6))
def test_any_lines_are_judged(lines):
    outcome = appraise_list(lines, bytes(32), Setting(ALL, bank=BANK), ListState())

    assert len(outcome.value) == 32
