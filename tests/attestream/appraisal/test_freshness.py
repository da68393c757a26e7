import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.freshness import MAX_SKEW_MS, judge, nonce

SECRET = bytes(range(32))
NOW = 1_790_000_000_000


def judged(agent="agent-1", seq=7, issued_at=NOW - 100, *, of=None, last_seq=6, secret=SECRET, now=NOW):
    claimed = nonce(SECRET, *(of or (agent, seq, issued_at)))
    found = judge(agent, claimed, seq, issued_at, secret=secret, now=now, last_seq=last_seq, window_ms=10_000)
    return found and found.code


def test_answer_to_a_live_challenge_is_fresh():
    assert judged() is None


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(("agent-2", 7, NOW - 100), id="another agent's nonce"),
        pytest.param(("agent-1", 8, NOW - 100), id="another challenge's nonce"),
        pytest.param(("agent-1", 7, NOW - 101), id="a challenge re-dated"),
    ],
)
def test_nonce_binds_agent_challenge_and_time(of):
    assert judged(of=of) == "freshness.nonce-invalid"


def test_nonce_of_another_cluster():
    assert judged(secret=b"x" * 32) == "freshness.nonce-invalid"


def test_evidence_is_judged_once():
    assert judged(last_seq=7) == "freshness.replayed"
    assert judged(last_seq=8) == "freshness.replayed"


def test_window():
    assert judged(issued_at=NOW - 10_000) is None
    assert judged(issued_at=NOW - 10_001) == "freshness.stale"


def test_a_colleagues_clock_may_be_a_little_ahead():
    assert judged(issued_at=NOW + MAX_SKEW_MS) is None
    assert judged(issued_at=NOW + MAX_SKEW_MS + 1) == "freshness.future"


@pytest.mark.parametrize(("seq", "issued_at"), [(-1, NOW), (1 << 63, NOW), (7, -1), (7, 1 << 70)])
def test_numbers_that_no_challenge_has(seq, issued_at):
    found = judge("a", b"", seq, issued_at, secret=SECRET, now=NOW, last_seq=0, window_ms=1)

    assert found is not None
    assert found.code == "freshness.nonce-invalid"


ids = st.text("abc-._09", max_size=12)
numbers = st.integers(0, 2**63 - 1)


@given(ids, numbers, numbers, ids, numbers, numbers)
def test_different_challenges_have_different_nonces(agent, seq, at, other, other_seq, other_at):
    same = (agent, seq, at) == (other, other_seq, other_at)

    assert (nonce(SECRET, agent, seq, at) == nonce(SECRET, other, other_seq, other_at)) is same


@pytest.mark.parametrize("size", [1, 32, 63, 64, 65, 200])
def test_nonce_is_the_hmac_of_rfc_2104(size):
    secret = bytes(range(size))
    message = b"attestream/nonce/1" + (7).to_bytes(4, "big") + b"agent-0" + (5).to_bytes(8, "big") + (9).to_bytes(8, "big")
    assert nonce(secret, "agent-0", 5, 9) == hmac.digest(secret, message, "sha256")


def test_who_has_issued_a_nonce_need_not_know_the_secret():
    issued = nonce(SECRET, "agent-1", 7, NOW)
    for claimed, code in ((issued, None), (issued[:-1], "freshness.nonce-invalid"), (b"", "freshness.nonce-invalid")):
        found = judge("agent-1", claimed, 7, NOW, secret=b"another", now=NOW, last_seq=6, window_ms=1, issued=issued)
        assert (found and found.code) == code
