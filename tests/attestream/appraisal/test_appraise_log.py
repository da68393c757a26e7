"""The IMA log in whole appraisals: what it shows, and how it can lie."""

from collections.abc import Callable

import pytest

from attestream.appraisal.appraise import Appraisal, Verdict
from attestream.appraisal.collector import MAX_FINDINGS
from devtools import ima_log
from devtools.appraisal_bench import EVIL, FILES, Bench, codes, content, culprits
from schemas.attestation import ImaDelta


def test_unknown_program_is_named(bench):
    bench.agent.run("/usr/bin/ev il\x1b[31m", EVIL)

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, ["runtime.path-unknown"])
    assert culprits(appraisal) == ["/usr/bin/ev_il\\x1b[31m"]
    assert bench.state.ima_entries == 0


def test_failure_stays_until_the_log_is_gone(bench):
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.round()

    assert codes(bench.round()) == ["runtime.path-unknown"]


def test_known_program_with_other_content(bench):
    bench.agent.run(FILES[5], EVIL)

    appraisal = bench.round()

    assert (codes(appraisal), culprits(appraisal)) == (["runtime.digest-unknown"], [FILES[5]])


def test_excluded_path(bench):
    bench.agent.run("/tmp/anything", EVIL)

    assert bench.round().verdict is Verdict.PASS


def test_ima_sig_entries_are_judged_by_digest(bench):
    bench.agent.run(FILES[4], content(FILES[4]), template="ima-sig", signature=b"\x03\x02")
    assert bench.round().verdict is Verdict.PASS

    bench.agent.run("/usr/bin/evil", EVIL, template="ima-sig", signature=b"\x03\x02")
    assert codes(bench.round()) == ["runtime.path-unknown"]


def forge(bench: Bench, change: Callable[[list[ima_log.Record]], None]) -> Appraisal:
    """Appraise with the log changed after the TPM has measured."""
    bench.run(3, 4)
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.run(5)
    change(bench.agent.log)
    return bench.round()


def test_entry_removed(bench):
    assert codes(forge(bench, lambda log: log.pop(5))) == ["runtime.log-mismatch"]


def test_log_cut_before_the_culprit(bench):
    def cut(log):
        del log[5:]

    assert codes(forge(bench, cut)) == ["runtime.log-mismatch"]


def test_entries_swapped(bench):
    def swap(log):
        log[3], log[4] = log[4], log[3]

    assert "runtime.log-mismatch" in codes(forge(bench, swap))


def test_culprit_replaced_by_an_allowed_file(bench):
    def replace(log):
        log[5] = ima_log.record(FILES[6], content(FILES[6]))

    assert codes(forge(bench, replace)) == ["runtime.log-mismatch"]


def test_culprit_rewritten_under_its_old_template_digest(bench):
    def rewrite(log):
        good = ima_log.record(FILES[6], content(FILES[6]))
        log[5] = good._replace(binary=good.binary[:4] + log[5].binary[4:24] + good.binary[24:])

    assert set(codes(forge(bench, rewrite))) == {"runtime.log-mismatch", "runtime.entry-digest"}


def test_culprit_disguised_as_a_violation(bench):
    def disguise(log):
        log[5] = ima_log.violation("/usr/bin/evil")

    assert "runtime.log-mismatch" in codes(forge(bench, disguise))


def test_log_missing_although_pcr_10_moved(bench):
    bench.run(3)

    assert codes(bench.round(ima=None)) == ["runtime.log-missing"]


def test_kernel_that_does_not_measure():
    """PCR 10 of zeros and an empty log agree, and prove nothing."""
    bench = Bench()

    assert codes(bench.round()) == ["runtime.log-empty"]
    assert codes(bench.round(ima=None)) == ["runtime.log-empty"]


@pytest.mark.parametrize("first", [2, 4, -1, 1 << 70])
def test_log_that_does_not_follow_what_is_proven(bench, first):
    bench.run(3)
    state = bench.state

    appraisal = bench.round(ima=ImaDelta(ima_first=first, count=1, data=bench.agent.log[3].binary))

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.AGAIN, ["runtime.log-offset"])
    assert (bench.state.ima_entries, bench.state.ima_pcr) == (state.ima_entries, state.ima_pcr)
    assert bench.round().verdict is Verdict.PASS


def test_whole_log_instead_of_the_delta(bench):
    bench.run(3)
    whole = b"".join(record.binary for record in bench.agent.log)

    appraisal = bench.round(ima=ImaDelta(ima_first=0, count=4, data=whole))

    assert (appraisal.verdict, bench.state.ima_entries) == (Verdict.PASS, 4)


def test_wrong_count(bench):
    bench.run(3)

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=bench.agent.log[3].binary))

    assert codes(appraisal) == ["runtime.log-count"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x0a", "runtime.entry-malformed"),
        (ima_log.record("/a", EVIL).binary.replace(b"ima-ng", b"ima-xx"), "runtime.template-unknown"),
    ],
)
def test_entry_that_can_not_be_read(bench, data, code):
    bench.run(3)

    appraisal = bench.round(ima=ImaDelta(ima_first=3, count=2, data=bench.agent.log[3].binary + data))

    assert (appraisal.verdict, codes(appraisal), culprits(appraisal)) == (Verdict.FAIL, [code], ["entry 4"])


def test_entry_of_another_pcr(bench):
    bench.agent.measure(ima_log.record(FILES[3], content(FILES[3]), pcr=11))
    bench.run(4)

    assert "runtime.entry-pcr" in codes(bench.round())


def test_violation_warns_once_and_keeps_trust(bench):
    bench.agent.violate("/var/log/journal")

    appraisal = bench.round()

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.PASS, ["runtime.violation"])
    assert culprits(appraisal) == ["/var/log/journal"]
    assert bench.round().findings == ()


def test_many_culprits_are_bounded(bench):
    for number in range(MAX_FINDINGS + 10):
        bench.agent.run(f"/evil/{number}", EVIL)

    appraisal = bench.round()

    assert len(appraisal.findings) == MAX_FINDINGS + 1
    assert codes(appraisal)[-1] == "runtime.more-findings"
