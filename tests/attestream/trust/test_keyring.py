import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import ExpiredError, ForbiddenError, MalformedError, SignatureError
from attestream.signing import Signer, key_id, public_key
from attestream.trust import publication
from attestream.trust import roster as rosters
from attestream.trust.authority import commanders, makers
from attestream.trust.keyring import MAX_DELAY_MS, Author, Keyring, UnknownKeyError, check_role
from devtools.roster_keys import RosterKeys
from schemas import subjects
from schemas.commands import AddAgent, Attestation, DeleteAgent, PublishPolicy
from schemas.events import EventKind
from schemas.roles import NOTIFIER_EVENTS, REGISTRAR_EVENTS, Role

NOW = 1_800_000_000_000
SUBJECT = subjects.result("web-1")


@pytest.fixture
def keys(tmp_path):
    return RosterKeys(tmp_path)


def verify(roster, header, subject=SUBJECT, payload=b"payload", received_at=NOW):
    return Keyring(roster).verify(publication.parse(header), subject, payload, received_at=received_at)


def test_the_author_is_told_by_the_roster(keys):
    header = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW)
    author = verify(keys.roster, header)
    assert (author.role, author.name, author.signed_at) == (Role.VERIFIER, "verifier", NOW)


def test_rsa_keys_sign_too(keys, tmp_path):
    signer = Signer.generate(tmp_path / "rsa.pem", "rsa-pss-sha256")
    roster = rosters.add_key(keys.roster, rosters.entry(signer.public_pem, Role.VERIFIER, "rsa"), NOW)
    assert verify(roster, publication.sign(signer, SUBJECT, b"payload", NOW)).name == "rsa"


def test_a_copy_elsewhere_or_of_something_else_does_not_verify(keys):
    header = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW)
    with pytest.raises(SignatureError):
        verify(keys.roster, header, subject=subjects.result("web-2"))
    with pytest.raises(SignatureError):
        verify(keys.roster, header, payload=b"another")
    with pytest.raises(SignatureError):
        verify(keys.roster, header.replace(f".{NOW}.", f".{NOW + 1}."))


def test_a_command_verifies_under_the_subject_that_the_stream_gives_it(keys):
    header = publication.sign(keys.signers["alice"], subjects.command("a.b"), b"payload", NOW)
    assert verify(keys.roster, header, subject="att.command.17.a%2Eb").name == "alice"


@pytest.mark.parametrize("late", [MAX_DELAY_MS + 1, -MAX_DELAY_MS - 1])
def test_what_is_sent_again_long_after_it_was_signed_does_not_count(keys, late):
    header = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW)
    with pytest.raises(ExpiredError):
        verify(keys.roster, header, received_at=NOW + late)


def test_a_revoked_key_counts_for_what_it_signed_before(keys):
    roster = rosters.revoke_key(keys.roster, keys.signers["verifier"].key_id, NOW)
    before = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW - 1)
    assert verify(roster, before, received_at=NOW - 1).name == "verifier"
    after = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW)
    with pytest.raises(ExpiredError):
        verify(roster, after)


@pytest.mark.parametrize("late", [0, 1, MAX_DELAY_MS - 1])
def test_a_revoked_key_can_not_date_back_what_it_signs_now(keys, late):
    roster = rosters.revoke_key(keys.roster, keys.signers["verifier"].key_id, NOW)
    header = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW - 1)
    with pytest.raises(ExpiredError, match="was revoked"):
        verify(roster, header, received_at=NOW + late)


def test_rotation_lets_both_keys_count_for_a_while(keys, tmp_path):
    old, new = keys.signers["verifier"], Signer.generate(tmp_path / "new.pem")
    roster = rosters.rotate(keys.roster, old.key_id, new.public_pem, NOW, overlap_ms=1000)
    assert {verify(roster, publication.sign(one, SUBJECT, b"payload", NOW + 500)).name for one in (old, new)} == {"verifier"}
    with pytest.raises(ExpiredError):
        verify(roster, publication.sign(old, SUBJECT, b"payload", NOW + 1001))
    assert verify(roster, publication.sign(new, SUBJECT, b"payload", NOW + 1001)).key_id == new.key_id


def test_a_stranger_is_unknown(keys, tmp_path):
    with pytest.raises(UnknownKeyError):
        verify(keys.roster, publication.sign(Signer.generate(tmp_path / "s.pem"), SUBJECT, b"payload", NOW))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        "0" * 16 + ".ed25519.1",
        "0" * 16 + ".ed25519.01.AA",
        "0" * 16 + ".ed25519.1.A",
        "0" * 16 + ".ed25519.1.AB",
        "0" * 16 + ".ed25519.1." + "A" * 2000,
        "Ü" * 16 + ".ed25519.1.AA",
    ],
)
def test_what_is_no_header_is_refused(header):
    with pytest.raises(SignatureError):
        publication.parse(header)


@given(st.text(max_size=200) | st.from_regex(r"[0-9a-f]{16}\.ed25519\.[0-9]{1,16}\.[A-Za-z0-9_=-]{0,90}", fullmatch=True))
def test_a_header_is_taken_apart_in_one_way_or_refused(header):
    try:
        signature = publication.parse(header)
    except SignatureError:
        return
    text = base64.urlsafe_b64encode(signature.signature).decode().rstrip("=")
    assert f"{signature.key_id}.{signature.algorithm}.{signature.signed_at}.{text}" == header


def test_a_header_is_of_use_for_its_algorithm_alone(keys):
    header = publication.sign(keys.signers["verifier"], SUBJECT, b"payload", NOW).replace("ed25519", "rsa-pss-sha256")
    with pytest.raises(SignatureError):
        verify(keys.roster, header)


def test_a_roster_whose_entry_is_another_key_is_refused(keys):
    wrong = msgspec.structs.replace(keys.roster.keys[0], key_id="0" * 16)
    with pytest.raises(MalformedError):
        Keyring(msgspec.structs.replace(keys.roster, keys=[wrong]))
    with pytest.raises(MalformedError):
        Keyring(msgspec.structs.replace(keys.roster, keys=[*keys.roster.keys, keys.roster.keys[0]]))


def test_each_subject_has_its_makers():
    for kind in EventKind:
        maker = Role.REGISTRAR if kind in REGISTRAR_EVENTS else Role.VERIFIER
        maker = Role.NOTIFIER if kind in NOTIFIER_EVENTS else maker
        assert makers(subjects.event(kind, "a")) == {maker}
    assert makers(SUBJECT) == makers("$KV.attestream.policy.base.1") == {Role.VERIFIER}
    assert Role.VERIFIER not in makers(subjects.command("a"))
    assert not makers("att.evidence.a")
    assert not makers("_INBOX.x")


def test_commands_are_for_the_roles_that_may_give_them():
    attestation = Attestation(policy="p")
    add = AddAgent(command_id="c", agent_id="a", attestation=attestation)
    publish = PublishPolicy(command_id="c", name="p", digest="0" * 64)
    assert commanders(add) == commanders(DeleteAgent(command_id="c", agent_id="a")) == {Role.ADMIN, Role.OPERATOR}
    assert commanders(publish) == {Role.ADMIN, Role.POLICY_AUTHOR}
    with pytest.raises(ForbiddenError):
        check_role(Author(role=Role.OBSERVER, name="otto", key_id="k", signed_at=1), commanders(add))


def test_differences_name_who_came_and_went(keys):
    olga = keys.signers["olga"].key_id
    changed = rosters.revoke_key(keys.roster, olga, NOW)
    assert [(kind, key.name) for kind, key in rosters.differences(keys.roster, changed)] == [
        (EventKind.OPERATOR_REVOKED, "olga")
    ]
    first = {(kind, key.name) for kind, key in rosters.differences(None, keys.roster)}
    assert {(EventKind.KEY_ADDED, "verifier"), (EventKind.OPERATOR_ADDED, "alice")} <= first
    without = msgspec.structs.replace(keys.roster, keys=[key for key in keys.roster.keys if key.key_id != olga])
    assert rosters.differences(keys.roster, without)[0][0] is EventKind.OPERATOR_REVOKED
    assert key_id(public_key(keys.signers["olga"].public_pem)) == olga
