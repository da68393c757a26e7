"""Which identities of agents are void: the account's token, and what it must never be talked into."""

import time

import pytest

from attestream.credentials.account import EVERYBODY, MAX_REVOKED, read_account, revised
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import account_token, read, scope
from attestream.errors import MalformedError, SignatureError

NOW = 1_800_000_000
OPERATOR = NKey.generate(Kind.OPERATOR)
ACCOUNT = NKey.generate(Kind.ACCOUNT)
ISSUER = NKey.generate(Kind.ACCOUNT)
OTHER = NKey.generate(Kind.ACCOUNT).public


def user() -> str:
    return NKey.generate(Kind.USER).public


def account(revocations=None, signer=OPERATOR):
    keys = [scope(ISSUER.public, "agent", {"subs": 64})]
    limits = {"conn": -1, "streams": 7}
    return account_token(
        signer, ACCOUNT.public, "agents", limits=limits, signing_keys=keys, revocations=revocations or {}, now=NOW
    )


def change(current, *, revoke=None, since=0):
    return revised(read(current), OPERATOR, revoke=revoke or {}, since=since, now=NOW + 1)


def revocations(text):
    return read(text).nats.get("revocations", {})


def test_revoked_key_is_added_and_everything_else_kept():
    mine, other = user(), user()
    changed = read(change(account({other: 7}), revoke={mine: NOW}))
    before = read(account({other: 7}))
    assert changed.nats["revocations"] == {other: 7, mine: NOW}
    assert changed.issued_at == NOW + 1
    assert {**changed.nats, "revocations": None} == {**before.nats, "revocations": None}


def test_entries_that_have_done_their_work_go_and_younger_ones_stay():
    old, young = user(), user()
    assert revocations(change(account({old: 7, young: 8}), since=8)) == {young: 8}


def test_last_entry_leaves_no_list():
    assert "revocations" not in read(change(account({user(): 8}), since=9)).nats


def test_nothing_is_issued_when_nothing_changes():
    mine = user()
    assert change(account({mine: 9}), revoke={mine: 9}) is None


def test_a_revocation_is_never_set_back():
    mine = user()
    assert change(account({mine: 9}), revoke={mine: 8}) is None
    assert revocations(change(account({mine: 9}), revoke={mine: 10})) == {mine: 10}


def test_entry_for_everybody_takes_the_place_of_older_ones():
    older, later = user(), user()
    changed = change(account({older: 9}), revoke={EVERYBODY: 10, later: 11})
    assert revocations(changed) == {EVERYBODY: 10, later: 11}


def test_full_list_fits_into_one_message_and_never_grows_beyond():
    revoke = dict.fromkeys((user() for _ in range(MAX_REVOKED)), NOW)
    changed = change(account({user(): NOW}), revoke=revoke)
    assert len(changed) < (1 << 20) - 65_536
    assert revocations(changed) == revoke


def test_what_is_no_users_key_is_refused():
    with pytest.raises(MalformedError):
        change(account(), revoke={ACCOUNT.public: NOW})


def test_token_that_a_hostile_server_made_up_is_not_believed():
    hostile = NKey.generate(Kind.OPERATOR)
    with pytest.raises(SignatureError):
        read_account(account(signer=hostile), ACCOUNT.public, frozenset([OPERATOR.public]), int(time.time()))


def test_token_of_another_account_is_not_believed():
    with pytest.raises(MalformedError, match="not that of account"):
        read_account(account(), OTHER, frozenset([OPERATOR.public]), NOW)
    assert read_account(account(), ACCOUNT.public, frozenset([OPERATOR.public]), NOW).name == "agents"
