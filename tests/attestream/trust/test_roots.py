"""Root keys that come after one another: whoever knows one believes what follows from it, and nothing else."""

import itertools

import msgspec
import pytest

from attestream.errors import MalformedError, SignatureError
from attestream.signing import Signer, TrustedKeys
from attestream.trust import roster as rosters
from attestream.trust.roots import MAX_VOUCHERS, UnknownRootError, open_roster, vouch
from schemas.base import encode
from schemas.events import Signed
from schemas.trust import RootVoucher

NOW = 1_700_000_000_000


@pytest.fixture
def roots(tmp_path):
    return [Signer.generate(tmp_path / f"{number}.pem") for number in range(4)]


def word(old, new, installation="here"):
    return vouch(old, new.public_pem, installation, now=NOW, until=NOW + 1)


def knowing(*signers):
    return TrustedKeys.from_pems([signer.public_pem for signer in signers])


def signed(root, *vouchers):
    roster = rosters.initial("here", [], NOW)
    for voucher in vouchers:
        roster = rosters.succeed(roster, voucher, NOW)
    return rosters.sign(roster, root)


def test_whoever_knows_any_key_of_a_chain_believes_the_last(roots):
    chain = [word(old, new) for old, new in itertools.pairwise(roots)]
    for first in roots:
        roster, counting = open_roster(signed(roots[-1], *chain), knowing(first))
        assert roster.vouchers == chain
        assert counting.key_ids == {roots[-1].key_id}


def test_a_key_that_has_vouched_for_another_counts_no_more(roots):
    with pytest.raises(UnknownRootError):
        open_roster(signed(roots[0], word(roots[0], roots[1])), knowing(roots[0]))
    # Neither does it beside the one that it has vouched for.
    with pytest.raises(UnknownRootError):
        open_roster(signed(roots[0], word(roots[0], roots[1])), knowing(roots[0], roots[1]))


def test_a_stolen_root_that_has_given_its_place_away_leads_nobody_to_a_thief(roots):
    _, counting = open_roster(signed(roots[1], word(roots[0], roots[1])), knowing(roots[0]))
    thief = roots[2]
    for forged in (signed(roots[0]), signed(thief, word(roots[0], thief)), signed(thief)):
        with pytest.raises(UnknownRootError):
            open_roster(forged, counting)


def test_a_voucher_by_a_stranger_is_worth_nothing(roots):
    with pytest.raises(UnknownRootError):
        open_roster(signed(roots[2], word(roots[1], roots[2])), knowing(roots[0]))


def test_an_altered_voucher_has_the_roster_refused(roots):
    honest = word(roots[0], roots[1])
    payload = encode(RootVoucher(installation="here", successor=roots[2].public_pem, at=NOW, until=NOW + 1))
    with pytest.raises(SignatureError, match="does not verify"):
        open_roster(signed(roots[2], msgspec.structs.replace(honest, payload=payload)), knowing(roots[0]))


def test_a_voucher_of_another_installation_is_no_voucher_here(roots):
    with pytest.raises(SignatureError, match="installation 'there' alone"):
        open_roster(signed(roots[1], word(roots[0], roots[1], "there")), knowing(roots[0]))


def test_what_a_root_key_has_signed_for_another_purpose_is_no_voucher(roots):
    other = roots[0].sign(rosters.initial("here", [], NOW))
    with pytest.raises(MalformedError):
        open_roster(signed(roots[1], other), knowing(roots[0]))


def test_a_voucher_is_no_roster(roots):
    with pytest.raises(MalformedError):
        open_roster(word(roots[0], roots[1]), knowing(roots[0]))
    with pytest.raises(SignatureError):
        open_roster(Signed(payload=b"\xc1", key_id=roots[1].key_id, algorithm="ed25519", signature=b""), knowing(roots[0]))


def test_a_chain_has_an_end(roots):
    with pytest.raises(MalformedError, match="vouchers"):
        open_roster(signed(roots[0], *([word(roots[2], roots[3])] * (MAX_VOUCHERS + 1))), knowing(roots[0]))
