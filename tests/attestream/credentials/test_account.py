"""Which identities of agents are void: the account's token, and what it must never be talked into."""

import time

import pytest

from attestream.credentials.account import MAX_REVOKED, issuing_key, read_account, revised
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


def account(revocations=None, signer=OPERATOR, signing_keys=None):
    keys = signing_keys or [scope(OTHER, "enrolment", {}), scope(ISSUER.public, "agent", {"subs": 64})]
    limits = {"conn": -1, "streams": 7}
    return account_token(
        signer, ACCOUNT.public, "agents", limits=limits, signing_keys=keys, revocations=revocations or {}, now=NOW
    )


def change(current, *, revoke=None, forget=(), agent_key=ISSUER.public):
    return revised(read(current), OPERATOR, revoke=revoke or {}, forget=forget, agent_key=agent_key, now=NOW + 1)


def test_revoked_key_is_added_and_everything_else_kept():
    mine, person = user(), user()
    changed = read(change(account({person: 7}), revoke={mine: NOW}))
    before = read(account({person: 7}))
    assert changed.nats["revocations"] == {person: 7, mine: NOW}
    assert changed.issued_at == NOW + 1
    assert {**changed.nats, "revocations": None} == {**before.nats, "revocations": None}


def test_entries_that_have_done_their_work_go_and_those_of_others_stay():
    mine, person = user(), user()
    changed = read(change(account({person: 7, mine: 8}), forget={mine}))
    assert changed.nats["revocations"] == {person: 7}


def test_last_entry_leaves_no_list():
    mine = user()
    assert "revocations" not in read(change(account({mine: 8}), forget=[mine])).nats


def test_nothing_is_issued_when_nothing_changes():
    mine = user()
    assert change(account({mine: 9}), revoke={mine: 9}, forget={user()}) is None


def test_a_revocation_is_never_set_back():
    mine = user()
    assert change(account({mine: 9}), revoke={mine: 8}) is None
    assert read(change(account({mine: 9}), revoke={mine: 10})).nats["revocations"] == {mine: 10}


def test_another_generation_replaces_the_agents_key_alone():
    key = issuing_key(ISSUER, 3).public
    changed = read(change(account(), agent_key=key))
    assert [entry["key"] for entry in changed.nats["signing_keys"]] == [OTHER, key]
    assert changed.nats["signing_keys"][1]["template"] == {"subs": 64}


def test_generations_are_derived_from_the_first_key():
    assert issuing_key(ISSUER, 0) is ISSUER
    keys = {issuing_key(ISSUER, generation).public for generation in range(4)}
    assert len(keys) == 4
    assert issuing_key(NKey.from_seed(ISSUER.seed), 3).public in keys


def test_full_list_fits_into_one_message():
    revoke = dict.fromkeys((user() for _ in range(MAX_REVOKED)), NOW)
    assert len(change(account(), revoke=revoke)) < (1 << 20) - 65_536


def test_account_without_agents_is_refused():
    with pytest.raises(MalformedError, match="no signing key for agents"):
        change(account(signing_keys=[OTHER]), revoke={user(): 1})


def test_wildcard_that_would_end_all_identities_is_refused():
    with pytest.raises(MalformedError):
        change(account(), revoke={"*": NOW})


def test_token_that_a_hostile_server_made_up_is_not_believed():
    hostile = NKey.generate(Kind.OPERATOR)
    with pytest.raises(SignatureError):
        read_account(account(signer=hostile), ACCOUNT.public, frozenset([OPERATOR.public]), int(time.time()))


def test_token_of_another_account_is_not_believed():
    with pytest.raises(MalformedError, match="not that of account"):
        read_account(account(), OTHER, frozenset([OPERATOR.public]), NOW)
    assert read_account(account(), ACCOUNT.public, frozenset([OPERATOR.public]), NOW).name == "agents"
