import hashlib

import pytest
from msgspec.structs import replace

from attestream.errors import MalformedError
from attestream.uefi import kinds
from attestream.uefi.log import EventLog
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import (
    STARTUP_LOCALITY,
    boot_aggregates,
    differing_pcrs,
    replay,
    replay_as_printed,
    reset_value,
    startup_locality,
)
from devtools.boot_log import BootLog
from devtools.sample_boot import sample_boot

BANKS = ("sha1", "sha256", "sha384", "sha512")


def parsed(log: BootLog) -> EventLog:
    return parse_log(bytes(log))


def test_replays_every_bank():
    log = sample_boot(BootLog(BANKS))
    replayed = replay(parsed(log))
    assert replayed.pcrs == log.pcrs
    assert (replayed.locality, replayed.unknown) == (0, ())
    assert sum(len(values) for values in replayed.pcrs.values()) == 4 * 13


def test_replays_a_sha1_log():
    log = sample_boot(BootLog(legacy=True))
    assert replay(parsed(log)).pcrs == log.pcrs


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_starts_pcr_0_at_the_locality_of_startup(locality):
    log = BootLog(locality=locality)
    log.add(0, kinds.NO_ACTION, STARTUP_LOCALITY + bytes([locality]))
    sample_boot(log)
    replayed = replay(parsed(log))
    assert replayed.pcrs == log.pcrs
    assert replayed.locality == locality
    assert replayed.pcrs["sha256"][1] == replay(parsed(sample_boot(BootLog()))).pcrs["sha256"][1]


def test_starts_pcr_0_at_locality_4_after_a_hardware_crtm():
    log = BootLog(locality=4)
    log.add(0, kinds.EFI_HCRTM_EVENT, b"HCRTM", measured=b"the code")
    sample_boot(log)
    assert replay(parsed(log)).pcrs == log.pcrs


@pytest.mark.parametrize("data", [STARTUP_LOCALITY, STARTUP_LOCALITY + b"\1", STARTUP_LOCALITY + b"\3\0"])
def test_refuses_a_wrong_startup_locality(data):
    log = BootLog()
    log.add(0, kinds.NO_ACTION, data)
    with pytest.raises(MalformedError, match="locality"):
        startup_locality(parsed(log))


def test_refuses_a_startup_locality_told_late_or_twice():
    late = sample_boot(BootLog())
    late.add(0, kinds.NO_ACTION, STARTUP_LOCALITY + b"\3")
    twice = BootLog()
    for locality in (b"\3", b"\0"):
        twice.add(0, kinds.NO_ACTION, STARTUP_LOCALITY + locality)
    for log in (late, twice):
        with pytest.raises(MalformedError, match="too late or twice"):
            replay(parsed(log))


def test_never_extends_no_action_events():
    log = BootLog()
    log.add_digests(0, kinds.NO_ACTION, b"SP800-155 Event\0", {"sha1": b"\1" * 20, "sha256": b"\2" * 32})
    log.add(0xFFFFFFFF, kinds.NO_ACTION, b"anything")
    sample_boot(log)
    assert replay(parsed(log)).pcrs == sample_boot(BootLog()).pcrs


def test_the_printed_values_extend_all_events_from_zero():
    log = BootLog(("sha256",), locality=3)
    log.add(0, kinds.NO_ACTION, STARTUP_LOCALITY + b"\3")
    log.add(0, kinds.SEPARATOR, bytes(4))
    value = bytes(32)
    for digest in (bytes(32), hashlib.sha256(bytes(4)).digest()):
        value = hashlib.sha256(value + digest).digest()
    assert replay_as_printed(parsed(log)) == {"sha256": {0: value}}


@pytest.mark.parametrize("name", ["agile", "legacy"])
def test_each_single_event_left_out_shows_in_its_pcr(name):
    log = sample_boot(BootLog(legacy=name == "legacy"))
    whole = parsed(log)
    for place, event in enumerate(whole.events):
        shorter = whole._replace(events=whole.events[:place] + whole.events[place + 1 :])
        for bank, values in replay(shorter).pcrs.items():
            assert differing_pcrs(values, log.pcrs[bank], sorted(log.pcrs[bank])) == (event.pcr,)


def test_an_unextended_pcr_must_have_its_reset_value():
    quoted = {2: bytes(32), 17: b"\xff" * 32, 3: b"\1" * 32, 18: bytes(32)}
    assert differing_pcrs({}, quoted, [2, 17, 3, 18, 4]) == (3, 18, 4)
    assert reset_value(23, 20) == bytes(20)
    assert reset_value(22, 20) == b"\xff" * 20


def test_boot_aggregates_are_digests_of_the_first_8_and_10_pcrs():
    log = sample_boot(BootLog(("sha256",)))
    values = log.pcrs["sha256"]
    expected = [hashlib.sha256(b"".join(values[pcr] for pcr in range(count))).digest() for count in (8, 10)]
    assert boot_aggregates(replay(parsed(log)).pcrs) == {"sha256": expected}


def test_a_pcr_that_nothing_extends_counts_as_zero_in_the_boot_aggregate():
    log = BootLog(("sha1",))
    log.add(0, kinds.SEPARATOR, bytes(4))
    first = log.pcrs["sha1"][0]
    expected = [hashlib.sha1(first + bytes(20 * (count - 1))).digest() for count in (8, 10)]
    assert boot_aggregates(replay(parsed(log)).pcrs) == {"sha1": expected}


def test_a_log_altered_by_one_byte_differs_in_one_pcr_hirs_tpmlog_altered():
    log = sample_boot(BootLog(("sha256",)))
    whole = parsed(log)
    for place, event in enumerate(whole.events):
        ((algorithm, digest),) = event.digests
        altered = replace(event, digests=((algorithm, digest[:-1] + bytes([digest[-1] ^ 1])),))
        events = (*whole.events[:place], altered, *whole.events[place + 1 :])
        values = replay(whole._replace(events=events)).pcrs["sha256"]
        assert differing_pcrs(values, log.pcrs["sha256"], sorted(log.pcrs["sha256"])) == (event.pcr,)
