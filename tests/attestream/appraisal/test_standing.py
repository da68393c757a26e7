"""Every standing with every trigger: the table below is written out, so that a change of the machine must be meant."""

import itertools

import pytest

from attestream.appraisal.standing import Transition, Trigger, step
from schemas.events import EventKind, Standing

K, S, T = EventKind, Standing, Trigger

EXPECTED = {
    (S.ENROLLED, T.ADDED): (K.ADDED, S.PENDING),
    (S.PENDING, T.UPDATED): (K.UPDATED, S.PENDING),
    (S.PENDING, T.STOPPED): (K.STOPPED, S.STOPPED),
    (S.PENDING, T.DELETED): (K.DELETED, S.ENROLLED),
    (S.PENDING, T.PASSED): (K.TRUSTED, S.TRUSTED),
    (S.PENDING, T.FAILED): (K.FAILED, S.FAILED),
    (S.PENDING, T.MISSED): (K.UNREACHABLE, S.UNREACHABLE),
    (S.PENDING, T.LAPSED): (K.LAPSED, S.UNREACHABLE),
    (S.TRUSTED, T.UPDATED): (K.UPDATED, S.PENDING),
    (S.TRUSTED, T.STOPPED): (K.STOPPED, S.STOPPED),
    (S.TRUSTED, T.DELETED): (K.DELETED, S.ENROLLED),
    (S.TRUSTED, T.FAILED): (K.FAILED, S.FAILED),
    (S.TRUSTED, T.MISSED): (K.UNREACHABLE, S.UNREACHABLE),
    (S.TRUSTED, T.LAPSED): (K.LAPSED, S.UNREACHABLE),
    (S.UNREACHABLE, T.UPDATED): (K.UPDATED, S.PENDING),
    (S.UNREACHABLE, T.STOPPED): (K.STOPPED, S.STOPPED),
    (S.UNREACHABLE, T.DELETED): (K.DELETED, S.ENROLLED),
    (S.UNREACHABLE, T.PASSED): (K.RECOVERED, S.TRUSTED),
    (S.UNREACHABLE, T.FAILED): (K.FAILED, S.FAILED),
    (S.UNREACHABLE, T.LAPSED): (K.LAPSED, S.UNREACHABLE),
    (S.FAILED, T.UPDATED): (K.UPDATED, S.PENDING),
    (S.FAILED, T.STARTED): (K.STARTED, S.PENDING),
    (S.FAILED, T.STOPPED): (K.STOPPED, S.STOPPED),
    (S.FAILED, T.DELETED): (K.DELETED, S.ENROLLED),
    (S.FAILED, T.LAPSED): (K.LAPSED, S.FAILED),
    (S.STOPPED, T.UPDATED): (K.UPDATED, S.STOPPED),
    (S.STOPPED, T.STARTED): (K.STARTED, S.PENDING),
    (S.STOPPED, T.DELETED): (K.DELETED, S.ENROLLED),
}


@pytest.mark.parametrize("recovery", ["operator", "automatic"])
@pytest.mark.parametrize(("standing", "trigger"), list(itertools.product(Standing, Trigger)))
def test_every_pair(standing, trigger, recovery):
    expected = EXPECTED.get((standing, trigger))
    if (standing, trigger, recovery) == (S.FAILED, T.PASSED, "automatic"):
        expected = (K.RECOVERED, S.TRUSTED)

    found = step(standing, trigger, recovery=recovery)

    assert found == (None if expected is None else Transition(expected[0], standing, expected[1]))


@pytest.mark.parametrize("trigger", [T.MISSED, T.LAPSED, T.AGAIN, T.PASSED])
def test_neither_silence_nor_a_good_quote_heals_a_failure(trigger):
    found = step(S.FAILED, trigger)

    assert found is None or found.after is S.FAILED


@pytest.mark.parametrize("standing", list(Standing))
def test_incomplete_evidence_changes_no_standing(standing):
    assert step(standing, T.AGAIN) is None
