"""What an attacker may try before PCRs are even looked at."""

import msgspec
import pytest

from attestream.appraisal.appraise import Verdict
from devtools.appraisal_bench import Bench, codes
from devtools.soft_tpm import KeyPool


def test_quote_of_another_tpm(bench):
    other = Bench(keys=KeyPool())
    other.run(0, 1, 2)

    assert codes(bench.judge(other.answer())) == ["quote.signature-invalid"]


def test_quote_with_one_bit_changed(bench):
    evidence = bench.answer()
    quote = bytearray(evidence.quote)
    quote[-1] ^= 1

    appraisal = bench.judge(msgspec.structs.replace(evidence, quote=bytes(quote)))

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, ["quote.signature-invalid"])


def test_signed_structure_that_is_no_quote(bench):
    """A restricted key signs other things too; only TPMS_ATTEST of type quote counts."""
    attest = b"\xffTCG\x80\x17" + bench.answer().quote[6:]

    appraisal = bench.judge(bench.answer(quote=attest, signature=bench.tpm.sign(attest)))

    assert codes(appraisal) == ["quote.malformed"]


@pytest.mark.parametrize("field", ["quote", "signature"])
@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x14\x00\x0b\xff\xff", bytes(4000)])
def test_garbage_instead_of_quote_or_signature(bench, field, data):
    assert bench.judge(bench.answer(**{field: data})).verdict is Verdict.FAIL


def test_sha1_signature(bench):
    signature = bench.answer().signature

    appraisal = bench.judge(bench.answer(signature=signature[:2] + b"\x00\x04" + signature[4:]))

    assert codes(appraisal) == ["quote.algorithm"]


@pytest.mark.parametrize("change", [{"nonce": b"other"}, {"transport_key": b"\x01" * 32}])
def test_quote_is_bound_to_nonce_and_transport_key(bench, change):
    assert codes(bench.judge(bench.answer(**change))) == ["quote.qualifying-data"]


def test_quote_is_bound_to_the_agent(bench):
    """One TPM must not speak for two agents."""
    evidence = bench.answer()

    assert codes(bench.judge(evidence, agent_id="agent-2")) == ["identity.agent-mismatch"]
    renamed = msgspec.structs.replace(evidence, agent_id="agent-2")
    assert codes(bench.judge(renamed, agent_id="agent-2")) == ["quote.qualifying-data"]
