"""What was quoted, what is claimed, and what the policy wants."""

import msgspec

from attestream.appraisal.appraise import Appraisal, Verdict
from devtools.appraisal_bench import EVIL, Bench, codes, culprits, make_policy
from schemas.attestation import qualifying_data


def lying(bench: Bench, banks: dict, values: dict, **changes) -> Appraisal:
    """Appraise a quote over ``banks`` with ``values`` claimed."""
    evidence = bench.answer(**changes)
    extra = qualifying_data(evidence.nonce, "agent-1", evidence.transport_key)
    quote, signature = bench.tpm.quote(extra, banks)
    return bench.judge(msgspec.structs.replace(evidence, quote=quote, signature=signature, pcr_values=values))


def values_of(bench: Bench, *pcrs: int, bank="sha256") -> dict:
    return {bank: {pcr: bench.tpm.pcr(bank, pcr) for pcr in pcrs}}


def test_quote_over_fewer_pcrs_than_claimed(bench):
    """CVE-2022-0317: what is not signed must not be believed."""
    appraisal = lying(bench, {"sha256": [0]}, values_of(bench, 0, 7, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.pcr-missing"], ["PCR 7"])


def test_more_claimed_than_quoted(bench):
    """CVE-2022-0317: a claim beside the signed ones is refused even when the policy does not ask for it."""
    appraisal = lying(bench, {"sha256": [0, 7, 10]}, values_of(bench, 0, 1, 7, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.selection"], ["PCR 1 (sha256)"])


def test_claimed_bank_that_was_not_quoted(bench):
    values = {**values_of(bench, 0, 7, 10), **values_of(bench, 0, bank="sha1")}

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.selection"]


def test_quote_over_no_pcrs(bench):
    """CVE-2022-0317, in its plainest form."""
    assert codes(lying(bench, {"sha256": []}, values_of(bench, 0, 7, 10))) == ["quote.pcr-missing"]
    assert codes(lying(bench, {"sha256": []}, {})) == ["quote.pcr-missing"]


def test_policy_pcr_that_was_not_quoted(bench):
    appraisal = lying(bench, {"sha256": [0, 10]}, values_of(bench, 0, 10))

    assert (codes(appraisal), culprits(appraisal)) == (["quote.pcr-missing"], ["PCR 7"])


def test_quote_of_another_bank(bench):
    """SHA-1 is quoted, SHA-256 is claimed or wanted."""
    assert codes(lying(bench, {"sha1": [0, 7, 10]}, values_of(bench, 0, 7, 10))) == ["quote.pcr-missing"]
    appraisal = lying(bench, {"sha1": [0, 7, 10]}, values_of(bench, 0, 7, 10, bank="sha1"))
    assert codes(appraisal) == ["quote.pcr-missing"]


def test_claimed_values_that_were_not_signed(bench):
    bench.tpm.extend(7, {"sha256": EVIL})
    values = values_of(bench, 0, 7, 10)
    values["sha256"][7] = bytes(32)

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.pcr-digest"]


def test_bytes_moved_from_one_value_to_the_next(bench):
    """The digest covers the values one after the other: each must have the size of its bank."""
    bench.tpm.extend(0, {"sha256": EVIL})
    values = values_of(bench, 0, 7, 10)
    values["sha256"][0], values["sha256"][7] = values["sha256"][0][:31], values["sha256"][0][31:] + values["sha256"][7]

    assert codes(lying(bench, {"sha256": [0, 7, 10]}, values)) == ["quote.pcr-digest"]


def test_more_pcrs_than_wanted_are_fine_but_never_known(bench):
    appraisal = lying(bench, {"sha256": [0, 1, 7, 10]}, values_of(bench, 0, 1, 7, 10))

    assert appraisal.verdict is Verdict.PASS
    assert appraisal.state.known_digest == b""


def test_known_digest_of_other_pcrs():
    """PCR 16 can be reset by anyone: with PCR 0's value in it, a quote over it has the known digest."""
    bench = Bench(make_policy(pcrs=(0,), runtime=False))
    assert bench.round().verdict is Verdict.PASS
    bench.tpm.extend(0, {"sha256": EVIL})

    assert codes(lying(bench, {"sha256": [16]}, {})) == ["quote.pcr-missing"]


def test_pcr_value_that_the_policy_does_not_allow(bench):
    bench.tpm.extend(7, {"sha256": EVIL})

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal), culprits(appraisal)) == (Verdict.FAIL, ["boot.pcr-value"], ["PCR 7"])
    assert bench.tpm.pcr("sha256", 7).hex() in appraisal.findings[0].message
    assert bench.state.known_digest == b""
    assert bench.state.ima_entries == 0


def test_values_left_out_although_they_changed(bench):
    bench.tpm.extend(7, {"sha256": EVIL})

    appraisal = bench.round(pcr_values={}, ima=None)

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["quote.values-missing"])


def test_another_policy_trusts_nothing_of_the_old_one(bench):
    bench.policy = make_policy(description="stricter")

    appraisal = bench.round()

    assert appraisal.verdict is Verdict.AGAIN
    assert (bench.state.ima_entries, bench.state.known_digest) == (0, b"")
    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 3


def test_answer_to_a_challenge_of_the_policy_before(bench):
    """It may be on its way while the policy changes: what it lacks is not the agent's fault."""
    evidence = bench.answer()
    bench.policy = make_policy(pcrs=(0, 1, 7))

    appraisal = bench.judge(evidence)

    assert (appraisal.verdict, appraisal.findings) == (Verdict.AGAIN, ())


def test_tpm_without_the_policys_bank():
    bench = Bench(banks=("sha1", "sha384"))
    bench.run(0)

    assert bench.round().verdict is Verdict.AGAIN
    assert codes(bench.round()) == ["quote.pcr-missing"]
