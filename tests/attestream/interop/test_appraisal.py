"""A quote against the incumbent's policies, by the four kinds of requests."""

import dataclasses
import hashlib
import json

import msgspec
import pytest

from attestream.interop.appraisal import MODES, Request, appraise_quote, request_of
from attestream.interop.clock import UNSEEN
from attestream.interop.pcr_blob import build_pcr_blob
from attestream.interop.quotes import QuoteParts
from attestream.interop.tpm_policy import read_tpm_policy
from attestream.tpm.public import parse_public
from attestream.tpm.structures import ClockInfo, build_quote, parse_quote
from devtools.soft_tpm import SoftTpm

KEY = "-----BEGIN PUBLIC KEY-----\nthe transport key\n-----END PUBLIC KEY-----\n"
NONCE = "q7Yw2hZp0TnXc4RbLk9s"
CLOCK = ClockInfo(5000, 3, 0, safe=True)
REFUSED = ("qoute_validation.quote_validation",)


@pytest.fixture
def tpm(keys):
    made = SoftTpm(ek="p256", ak="p256", banks=("sha256",), keys=keys)
    made.extend(10, {"sha256": b"\1" * 32})
    made.extend(16, {"sha256": hashlib.sha256(KEY.encode()).digest()})
    return made


def appraise(tpm, request, pcrs=(0, 10, 16), nonce=NONCE, signer=None, **changes):
    attest, _ = tpm.quote(NONCE.encode(), {"sha256": pcrs})
    attest = build_quote(msgspec.structs.replace(parse_quote(attest), **{"clock": CLOCK, **changes}))
    blob = build_pcr_blob((("sha256", pcrs),), {"sha256": {pcr: tpm.pcr("sha256", pcr) for pcr in pcrs}})
    parts = QuoteParts(attest, (signer or tpm).sign(attest), blob)
    return appraise_quote(parse_public(tpm.ak_public), parts, nonce, "sha256", request)


def with_log(request, *events):
    return dataclasses.replace(request, log=lambda quoted: events, log_wanted=True)


class Boot:
    """A boot check that says what it is told to."""

    def __init__(self, unreadable=(), compared=((), ()), verdict=()):
        self.answers = unreadable, compared, verdict
        self.parsed = None

    def parse(self):
        return self.answers[0]

    def compare(self, pcrs):
        return self.answers[1]

    def evaluate(self, pcrs, *, parsed):
        self.parsed = parsed
        return self.answers[2]


def test_a_good_quote_has_no_events(tpm):
    done = appraise(tpm, with_log(request_of("pull", bound_text=KEY)))
    assert (done.event_ids, done.findings, done.clock) == ((), (), CLOCK)
    assert set(done.pcrs) == {0, 10, 16}


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_takes_a_quote_that_the_key_did_not_sign_or_for_another_nonce(tpm, keys, mode):
    """keylime 7.14 swallowed the failure: identity quotes passed, and pull and push went on to the logs."""
    request = request_of(mode, bound_text=KEY)
    other = SoftTpm(ek="p256", ak="p256", keys=keys)
    for done in (appraise(tpm, request, signer=other), appraise(tpm, request, nonce=NONCE[::-1])):
        assert (done.event_ids, done.clock, done.pcrs) == (REFUSED, UNSEEN, {})


def test_modes_check_what_they_are_for(tpm):
    back = ClockInfo(9000, 9, 9, safe=True)
    wrong = read_tpm_policy(json.dumps({"0": "11" * 32}))
    outcome = {}
    for mode in MODES:
        request = dataclasses.replace(request_of(mode, bound_text="another key"), tpm_policy=wrong)
        outcome[mode] = appraise(tpm, with_log(request)).event_ids
        if MODES[mode].clock:
            old = dataclasses.replace(request, previous_clock=back)
            assert appraise(tpm, old).event_ids == REFUSED
    pcr = "pcr_validation.invalid_pcr_0"
    assert outcome == {"pull": ("pcr_validation.invalid_pcr_16", pcr), "push": (pcr,), "identity": (), "evidence": (pcr,)}


def test_a_log_whose_pcr_was_not_quoted_is_never_taken(tpm):
    """CVE-2022-0317, on the IMA log: keylime 7.14 skips the log, and the agent passes."""
    request = request_of("pull", bound_text=KEY)
    for asked in (with_log(request), dataclasses.replace(request, log_wanted=True)):
        assert appraise(tpm, asked, pcrs=(0, 16)).event_ids == ("pcr_validation.missing_pcrs",)
    assert appraise(tpm, request, pcrs=(0, 16)).event_ids == ()


def test_a_quoted_pcr_10_needs_a_log(tpm):
    assert appraise(tpm, request_of("pull", bound_text=KEY)).event_ids == ("pcr_validation.unused_pcr_10",)


def test_the_bound_key_must_be_quoted(tpm):
    request = with_log(request_of("pull", bound_text=KEY))
    assert appraise(tpm, request, pcrs=(0, 10)).event_ids == ("pcr_validation.missing_pcr_16",)


def test_policy_values_are_compared_letter_by_letter(tpm):
    tpm.extend(7, {"sha256": b"\1" * 32})
    value = tpm.pcr("sha256", 7).hex()
    for text, events in ((value, ()), (value.upper(), ("pcr_validation.invalid_pcr_7",))):
        policy = read_tpm_policy(json.dumps({"7": text}))
        request = dataclasses.replace(request_of("push", bound_text=None), tpm_policy=policy)
        assert appraise(tpm, request, pcrs=(7,)).event_ids == events


def test_a_policy_pcr_that_was_not_quoted_is_missing(tpm):
    policy = read_tpm_policy(json.dumps({"0": ["00" * 32], "7": ["00" * 32]}))
    done = appraise(tpm, dataclasses.replace(Request(), tpm_policy=policy), pcrs=(0,))
    assert done.event_ids == ("pcr_validation.missing_pcrs",)
    assert done.findings[0].culprit == "PCR 7"


def test_events_come_in_the_incumbents_order(tpm):
    policy = read_tpm_policy(json.dumps({"0": ["11" * 32], "7": ["00" * 32]}))
    boot = Boot(compared=(["measured_boot.invalid_pcr_4"], {4}), verdict=["measured_boot.policy_example"])
    request = dataclasses.replace(request_of("pull", bound_text="x"), tpm_policy=policy, boot=boot)
    assert appraise(tpm, with_log(request, "ima.pcr_mismatch")).event_ids == (
        "pcr_validation.invalid_pcr_16",
        "ima.pcr_mismatch",
        "measured_boot.invalid_pcr_4",
        "pcr_validation.invalid_pcr_0",
        "pcr_validation.missing_pcrs",
        "measured_boot.policy_example",
    )
    assert boot.parsed is True


def test_a_boot_log_that_can_not_be_read_is_not_compared(tpm):
    boot = Boot(unreadable=["measured_boot.parser.tpm2_eventlog.error"], compared=(["never"], {0}))
    request = dataclasses.replace(request_of("push", bound_text=None), boot=boot)
    assert appraise(tpm, request, pcrs=(0,)).event_ids == ("measured_boot.parser.tpm2_eventlog.error",)
    assert boot.parsed is False


@pytest.mark.parametrize(
    ("before", "now", "events", "kept"),
    [
        (ClockInfo(4999, 3, 0, safe=True), CLOCK, (), CLOCK),
        (CLOCK, CLOCK, REFUSED, CLOCK),
        (UNSEEN, ClockInfo(5000, 3, 0, safe=False), REFUSED, UNSEEN),
        (ClockInfo(9000, 2, 0, safe=True), ClockInfo(10, 3, 1, safe=True), (), ClockInfo(9000, 2, 0, safe=True)),
    ],
)
def test_the_clock_is_judged_and_kept(tpm, before, now, events, kept):
    request = request_of("push", bound_text=None, previous_clock=before)
    done = appraise(tpm, request, pcrs=(0,), clock=now)
    assert (done.event_ids, done.clock) == (events, kept)
    assert all(found.severity == "failure" for found in done.findings)
