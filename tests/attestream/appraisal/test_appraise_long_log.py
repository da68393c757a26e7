"""A log that is too long for one evidence comes in several, and only the last of them can be proven."""

import msgspec
import pytest

from attestream.appraisal import runtime
from attestream.appraisal.appraise import Verdict
from devtools import ima_log
from devtools.appraisal_bench import EVIL, FILES, Bench, codes, content
from schemas.attestation import ImaDelta


@pytest.fixture
def long() -> Bench:
    """An agent with seven measured files that sends at most three in one evidence."""
    bench = Bench()
    bench.run(*range(7))
    bench.agent.at_once = 3
    return bench


def test_it_passes_when_all_of_it_has_come(long):
    verdicts = [long.round().verdict for _ in range(3)]

    assert verdicts == [Verdict.AGAIN, Verdict.AGAIN, Verdict.PASS]
    assert (long.state.ima_entries, long.state.tail) == (7, 0)
    assert long.round().verdict is Verdict.PASS
    whole = Bench()
    whole.tpm, whole.agent, whole.ak = long.tpm, long.agent, long.ak
    long.agent.at_once = 0
    assert whole.round().verdict is Verdict.PASS
    assert whole.state.ima_pcr == long.state.ima_pcr


def test_news_that_are_too_long(bench):
    """What was trusted before is not trusted again before the last part."""
    bench.agent.at_once = 2
    bench.run(3, 4, 5)

    assert bench.round().verdict is Verdict.AGAIN
    assert (bench.state.ima_entries, bench.state.known_digest) == (5, b"")
    assert bench.round().verdict is Verdict.PASS


def test_what_is_bad_in_a_part_fails_at_once(long):
    long.agent.log[1] = ima_log.record("/usr/bin/evil", EVIL)

    appraisal = long.round()

    assert (appraisal.verdict, codes(appraisal)) == (Verdict.FAIL, ["runtime.path-unknown"])
    assert long.state.ima_entries == 0


@pytest.mark.parametrize("change", ["invented", "left out", "swapped"])
def test_a_part_that_was_not_measured_can_not_be_proven_later(long, change):
    """The bad entry of a machine is hidden in a part that no quote reaches, or is not shown."""
    log = long.agent.log
    if change == "invented":
        log.insert(1, ima_log.record(FILES[9], content(FILES[9])))
    elif change == "left out":
        del log[1]
    else:
        log[0], log[1] = log[1], log[0]

    assert long.round().verdict is Verdict.AGAIN
    while (last := long.round()).verdict is Verdict.AGAIN:
        pass

    assert (last.verdict, codes(last)) == (Verdict.FAIL, ["runtime.log-mismatch"])
    assert (long.state.ima_entries, long.state.ima_pcr) == (0, b"")


def test_who_says_that_there_is_more_and_shows_nothing_gets_nowhere(long):
    long.round()

    appraisal = long.round(ima=ImaDelta(ima_first=3, count=0, data=b"", more=True))

    assert appraisal.verdict is Verdict.AGAIN
    assert long.state.ima_entries == 3


def test_entries_that_were_shown_behind_a_quote_stay_to_be_proven(bench):
    """A part may not be used to forget them: the machine never measured the last three."""
    bench.run(3)
    honest = bench.answer()
    assert honest.ima is not None
    invented = [ima_log.record(FILES[number], content(FILES[number])).binary for number in (4, 5, 6)]
    shown = ImaDelta(ima_first=honest.ima.ima_first, count=4, data=b"".join([honest.ima.data, *invented]))
    bench.state = bench.judge(msgspec.structs.replace(honest, ima=shown)).state
    assert bench.state.tail == 3
    bench.run(7, 8)
    bench.agent.at_once = 1

    assert bench.round().verdict is Verdict.AGAIN
    assert (bench.state.ima_entries, bench.state.tail) == (5, 2)
    assert codes(bench.round()) == ["runtime.no-progress"]


def test_a_reboot_between_two_parts(long):
    long.round()
    long.agent.reboot()
    long.run(0, 1)
    long.agent.at_once = 0

    assert [long.round().verdict for _ in range(2)][-1] is Verdict.PASS
    assert long.state.ima_entries == 2


def test_parts_without_end_are_bounded(long, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_ENTRIES", 5)
    assert long.round().verdict is Verdict.AGAIN

    assert codes(long.round()) == ["runtime.log-too-long"]


def test_a_count_that_is_wrong_is_found_in_a_part(long):
    whole = long.answer().ima
    assert whole is not None

    appraisal = long.round(ima=ImaDelta(ima_first=0, count=9, data=whole.data, more=True))

    assert codes(appraisal) == ["runtime.log-count"]
