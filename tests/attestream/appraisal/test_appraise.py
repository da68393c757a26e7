"""Whole appraisals: an honest agent with a software TPM on one side, the pure function on the other."""

import msgspec
import pytest

from attestream.appraisal.appraise import Verdict
from attestream.appraisal.state import AttesterState, decode_state, fresh
from attestream.errors import MalformedError
from attestream.ima.memo import Memo
from devtools.appraisal_bench import EVIL, Bench, make_policy
from schemas.attestation import ImaDelta


@pytest.mark.parametrize(
    "tpm",
    [
        {"ak": "rsa2048"},
        {"ak": "rsa2048", "ak_scheme": "rsapss"},
        {"ak": "p256"},
    ],
    ids=lambda tpm: "-".join(tpm.values()),
)
def test_honest_agent_passes_and_then_answers_bare(tpm):
    bench = Bench(**tpm)
    bench.run(0, 1, 2)

    first = bench.round()
    evidence = bench.answer()
    second = bench.judge(evidence)

    assert (first.verdict, first.findings) == (Verdict.PASS, ())
    assert bench.state.ima_entries == 3
    assert not evidence.pcr_values
    assert (second.verdict, second.findings) == (Verdict.PASS, ())
    assert second.state.clock >= first.state.clock
    assert msgspec.structs.replace(second.state, clock=first.state.clock) == first.state


@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
def test_every_bank(bank):
    bench = Bench(make_policy(bank=bank), banks=("sha1", bank))
    bench.run(0, 1)
    assert bench.round().verdict is Verdict.PASS

    bench.run(2)

    assert bench.round().verdict is Verdict.PASS
    assert bench.state.ima_entries == 3


@pytest.mark.parametrize("parts", [{"runtime": False}, {"pcrs": ()}])
def test_policy_with_one_part(parts):
    bench = Bench(make_policy(**parts))
    bench.run(0)

    assert bench.round().verdict is Verdict.PASS
    assert bench.round().verdict is Verdict.PASS


def test_new_entries_come_as_a_delta(bench):
    bench.run(3, 4)
    evidence = bench.answer()
    assert evidence.ima is not None
    assert (evidence.ima.ima_first, evidence.ima.count) == (3, 2)

    appraisal = bench.judge(evidence)

    assert appraisal.verdict is Verdict.PASS
    assert appraisal.state.ima_entries == 5


def test_result_does_not_depend_on_the_memo(bench):
    bench.run(3, 4)
    bench.agent.run("/usr/bin/evil", EVIL)
    evidence, memo = bench.answer(), Memo()

    assert bench.judge(evidence) == bench.judge(evidence, memo=memo) == bench.judge(evidence, memo=memo)


def test_ascii_log(bench):
    bench.run(3, 4)
    lines = "".join(f"{record.ascii}\n" for record in bench.agent.log[3:]).encode()

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=lines, ascii=True))

    assert (appraisal.verdict, appraisal.state.ima_entries) == (Verdict.PASS, 5)


def test_state_survives_its_encoding(bench):
    assert decode_state(bench.state.encode()) == bench.state
    assert len(bench.state.encode()) < 256


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\x02\x03", bytes(5000)])
def test_state_that_is_none(data):
    with pytest.raises(MalformedError):
        decode_state(data)


def test_nothing_is_known_at_first():
    assert fresh() == AttesterState()
    assert fresh().known_digest == b""
