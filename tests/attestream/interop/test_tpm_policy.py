import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import PolicyError
from attestream.interop.tpm_policy import make_tpm_policy, read_tpm_policy


def test_a_stored_policy_is_read_as_it_stands():
    policy = read_tpm_policy('{"22": ["AA", "bb"], "15": "cc", "mask": "0x408000"}')
    assert policy.values == {22: frozenset({"AA", "bb"}), 15: frozenset({"cc"})}
    assert policy.pcrs == (15, 22)
    assert read_tpm_policy("{}").pcrs == ()


def test_an_operators_policy_gets_lower_case_values_and_a_mask():
    assert make_tpm_policy('{"22": ["AA"], "15": "Cc", "mask": "0x0"}') == {"22": ["aa"], "15": ["cc"], "mask": "0x408000"}
    assert make_tpm_policy("{}", runtime=True, boot_pcrs=(0, 7)) == {"mask": "0x481"}


@pytest.mark.parametrize("text", ['{"10": "aa"}', '{"16": "aa"}', '{"7": "aa"}'])
def test_a_pcr_with_another_use_has_no_fixed_value(text):
    with pytest.raises(PolicyError):
        make_tpm_policy(text, boot_pcrs=(7,))


BAD = [
    "",
    "[]",
    "null",
    "{",
    "[" * 100_000,
    '{"24": "aa"}',
    '{"-1": "aa"}',
    '{"\\u0662": "aa"}',
    '{"x": "aa"}',
    '{"7": 7}',
    '{"7": [7]}',
    '{"mask": 7}',
    '{"mask": "0x1000000"}',
    '{"mask": "-1"}',
    '{"mask": "x"}',
    '{"7": "' + "a" * (1 << 20) + '"}',
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_policy_that_is_not_well_formed_is_refused(text):
    with pytest.raises(PolicyError):
        read_tpm_policy(text)


@given(st.dictionaries(st.integers(0, 23).map(str), st.lists(st.text("0123456789abcdef", max_size=8), max_size=3)))
def test_what_is_made_can_be_read(values):
    wanted = {key: value for key, value in values.items() if key not in ("10", "16")}
    policy = read_tpm_policy(json.dumps(make_tpm_policy(json.dumps(wanted))))
    assert policy.values == {int(key): frozenset(value) for key, value in wanted.items()}
    assert policy.pcrs == tuple(sorted(map(int, wanted)))
