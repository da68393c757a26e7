"""The incumbent's checks of a boot log: which events it raises, in which order, and when it checks nothing at all."""

import json

import pytest

from attestream.interop.boot_log import BootLogReading, read_boot_log
from attestream.interop.boot_policy import BootLogCheck, policy_named
from attestream.uefi.policy.create import create_reference_state
from devtools.grub_boot import grub_boot

GOOD = grub_boot()
PCRS = GOOD.pcrs["sha256"] | {11: bytes(32), 16: bytes(32)}
STATE = json.dumps(create_reference_state(bytes(GOOD)))
READING = read_boot_log(bytes(GOOD), "sha256")


def events(check: BootLogCheck, pcrs=PCRS) -> list[str]:
    unreadable = check.parse()
    compared = [] if unreadable else check.compare(pcrs)[0]
    return [*unreadable, *compared, *check.evaluate(pcrs, parsed=not unreadable)]


def check(state: str | None = STATE, *, reading: BootLogReading = READING, policy="example", allowed=None) -> BootLogCheck:
    return BootLogCheck(reading, policy_named(policy), state, allowed or {})


def test_a_good_boot_raises_nothing():
    assert events(check()) == []
    assert sorted(check().compare(PCRS)[1]) == [*range(10), 14]
    assert sorted(check(policy="accept-all").compare(PCRS)[1]) == [*range(10), 11, 14]


def test_a_pcr_that_the_log_does_not_lead_to():
    assert events(check(), PCRS | {0: bytes(32), 9: bytes(32)}) == [
        "measured_boot.invalid_pcr_0",
        "measured_boot.invalid_pcr_9",
    ]


def test_a_pcr_beyond_the_policy_does_not_count():
    assert events(check(), PCRS | {11: b"\x01" * 32}) == []
    assert events(check(policy="accept-all"), PCRS | {11: b"\x01" * 32}) == ["measured_boot.invalid_pcr_11"]


def test_values_of_single_pcrs_are_checked_too_and_told_first():
    assert events(check(allowed={4: ["00" * 32]}), PCRS | {0: bytes(32)}) == [
        "pcr_validation.invalid_pcr_4",
        "measured_boot.invalid_pcr_0",
    ]


def test_without_a_log():
    unused = [f"pcr_validation.unused_pcr_{pcr}" for pcr in (*range(10), 14)]
    assert events(check(reading=read_boot_log(b"", "sha256"))) == [*unused, "measured_boot.missing_pcrs"]


@pytest.mark.parametrize(
    ("log", "bank", "event"),
    [
        (b"\xff" * 100, "sha256", "measured_boot.parser.tpm2_eventlog.error"),
        (bytes(GOOD), "sha384", "measured_boot.parser.invalid_pcrs_hashes"),
    ],
)
def test_a_log_that_can_not_be_read(log, bank, event):
    assert events(check(reading=read_boot_log(log, bank))) == [event]


@pytest.mark.parametrize("state", [None, "", "{}", "[]", "0"])
def test_a_reference_state_that_asks_for_nothing(state):
    assert events(check(state), {0: bytes(32)}) == []


@pytest.mark.parametrize("state", ["null", "{", "[" * 100_000])
def test_a_reference_state_that_is_none(state):
    assert events(check(state)) == ["pcr_validation.invalid_mb_policy"]
    assert events(check(state, reading=read_boot_log(b"no log", "sha256")))[1:] == ["pcr_validation.invalid_mb_policy"]


def test_a_pcr_of_the_policy_that_was_not_quoted():
    assert events(check(), {pcr: value for pcr, value in PCRS.items() if pcr != 4}) == ["measured_boot.missing_pcrs"]


def test_what_the_policy_says():
    assert events(check(policy="no such policy")) == ["measured_boot.policy_reject-all"]
    assert events(check(json.dumps({"kernels": []}))) == ["measured_boot.policy_example"]
    [found] = check(json.dumps({"kernels": []})).judge(range(16))
    assert found.message == "policy evaluation failed: refstate['scrtm_and_bios'] is missing"
