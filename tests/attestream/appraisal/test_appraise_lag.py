"""Log and quote are not taken at one instant."""

import msgspec

from attestream.appraisal.appraise import Verdict
from devtools import ima_log
from devtools.appraisal_bench import EVIL, FILES, Bench, codes, content
from schemas.attestation import Evidence, ImaDelta


def lagging(bench: Bench, *behind: int) -> Evidence:
    """Return evidence whose log was read after ``behind`` had been measured, and its quote before."""
    challenge = bench.challenge()
    early = bench.agent.answer(challenge)
    bench.run(*behind)
    late = bench.agent.answer(msgspec.structs.replace(challenge, known_digest=b""))
    return msgspec.structs.replace(early, ima=late.ima)


def test_log_may_run_ahead_of_the_quote(bench):
    bench.run(3)

    bench.state = bench.judge(lagging(bench, 4, 5)).state

    assert (bench.state.ima_entries, bench.state.tail, bench.state.known_digest) == (4, 2, b"")
    assert bench.round().verdict is Verdict.PASS
    assert (bench.state.ima_entries, bench.state.tail) == (6, 0)


def test_entries_ahead_of_the_quote_are_judged_already(bench):
    bench.run(3)
    challenge = bench.challenge()
    early = bench.agent.answer(challenge)
    bench.agent.run("/usr/bin/evil", EVIL)
    bench.agent.violate("/later")
    late = bench.agent.answer(challenge)

    appraisal = bench.judge(msgspec.structs.replace(early, ima=late.ima))

    assert codes(appraisal) == ["runtime.path-unknown"]


def test_quote_that_never_catches_up(bench):
    """Entries that the log showed must be in the next quote: otherwise they were invented, or the PCR is not extended."""
    bench.run(3)
    invented = ima_log.record(FILES[4], content(FILES[4])).binary
    honest = bench.answer()
    assert honest.ima is not None
    ahead = msgspec.structs.replace(honest.ima, count=2, data=honest.ima.data + invented)
    bench.state = bench.judge(msgspec.structs.replace(honest, ima=ahead)).state
    assert bench.state.tail == 1

    assert codes(bench.round()) == ["runtime.no-progress"]


def test_whole_log_does_not_excuse_from_progress(bench):
    bench.run(3)
    bench.state = bench.judge(lagging(bench, 4)).state
    del bench.agent.log[4]
    whole = b"".join(record.binary for record in bench.agent.log)

    appraisal = bench.round(ima=ImaDelta(ima_first=0, count=4, data=whole))

    assert codes(appraisal) == ["runtime.log-mismatch"]
