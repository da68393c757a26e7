from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.base import SchemaError

IDS = st.text(alphabet=string.ascii_letters + string.digits + "._-", min_size=1, max_size=80)


@given(IDS)
def test_token_is_one_token_and_gives_the_id_back(id_):
    token = subjects.token(id_)
    assert not set(token) & set(".*> \t\r\n")
    assert subjects.agent_id(token) == id_


@given(IDS, IDS)
def test_two_ids_never_share_a_token(first, second):
    assert (subjects.token(first) == subjects.token(second)) == (first == second)


def test_uuid_passes_unchanged_and_dots_are_escaped():
    assert subjects.token("d432fbb3-d2f1-4a97-9ef7-75bd81c00000") == "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
    assert subjects.token("host.example") == "host%2Eexample"


@pytest.mark.parametrize("id_", ["", "a" * 81, "a b", "*", ">", "a.>", "a/b", "a%2E", "ä", "a\n", "a\r\nPUB x", "a\x00"])
def test_text_that_is_no_id_is_refused(id_):
    with pytest.raises(SchemaError):
        subjects.token(id_)


@pytest.mark.parametrize("token", ["", "a.b", "%2e", "%41", "%2A", "%", "%2", "a%20b", "a" * 300])
def test_token_that_no_id_makes_is_refused(token):
    with pytest.raises(SchemaError):
        subjects.agent_id(token)


def test_every_subject_of_an_agent_has_its_token_only():
    for make in (
        subjects.challenge,
        subjects.agent_orders,
        subjects.evidence,
        subjects.command,
        subjects.events_of,
        subjects.result,
        subjects.revocation,
        subjects.revoked,
    ):
        assert "a%2Eb" in make("a.b").split(".")
        with pytest.raises(SchemaError):
            make("a.>*")
