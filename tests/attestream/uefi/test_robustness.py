"""Whatever the bytes are, nothing but our own errors come out, in time that grows with the size."""

import time
from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import AttestreamError
from attestream.uefi import kinds
from attestream.uefi.claims import draw_claims
from attestream.uefi.device_path import device_path_text
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.log import EventLog
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay
from attestream.uefi.signatures import parse_signature_lists
from devtools.boot_log import BootLog
from devtools.sample_boot import sample_boot

AGILE = bytes(sample_boot(BootLog()))
LEGACY = bytes(sample_boot(BootLog(legacy=True)))
HEADER = bytes(BootLog(("sha256",)))
KINDS = st.sampled_from(sorted(kinds.NAMES)) | st.integers(0, 0xFFFFFFFF)


def exercise(data: bytes) -> None:
    for padded in (True, False):
        with suppress(AttestreamError):
            log = parse_log(data, padded=padded)
            for bank, values in replay(log).pcrs.items():
                draw_claims(log, bank, values)
    with suppress(AttestreamError):
        to_dictionary(data)


@given(st.binary(max_size=400))
def test_arbitrary_bytes(data):
    exercise(data)
    exercise(HEADER + data)


@given(st.lists(st.tuples(st.integers(0, 23), KINDS, st.binary(max_size=120)), max_size=8))
def test_arbitrary_events_parse_back_and_decode_or_are_refused(events):
    for legacy in (False, True):
        log = BootLog(legacy=legacy)
        for pcr, kind, data in events:
            log.add(pcr, kind, data)
        exercise(bytes(log))
        # A SHA-1 log that begins with EV_NO_ACTION, or has no events, is not known from other bytes.
        if not legacy or (events and events[0][1] != kinds.NO_ACTION):
            parsed = parse_log(bytes(log))
            assert [(event.pcr, event.kind, event.data) for event in parsed.events] == events
            if not any(kind == kinds.EFI_HCRTM_EVENT for _pcr, kind, _data in events):
                assert replay(parsed).pcrs == log.pcrs


@given(st.sampled_from([AGILE, LEGACY]), st.integers(0, 20_000), st.integers(1, 255), st.integers(0, 20_000))
def test_a_flipped_byte_and_a_truncation(data, place, change, length):
    flipped = bytearray(data)
    flipped[place % len(data)] ^= change
    exercise(bytes(flipped))
    exercise(bytes(flipped[: length % (len(data) + 1)]))


@given(st.binary(max_size=300))
def test_arbitrary_device_paths_have_a_text_or_none(data):
    assert isinstance(device_path_text(data), str | None)


@given(st.binary(max_size=300))
def test_arbitrary_signature_lists_are_read_or_refused(data):
    with suppress(AttestreamError):
        parse_signature_lists(data, "db")


def event(kind: int, data: bytes) -> bytes:
    return pack("<III", 1, kind, 1) + pack("<H", 0xB) + bytes(32) + pack("<I", len(data)) + data


MILLION = 1_000_000
HOSTILE = {
    "zero tails in sha1 events": (pack("<II", 0, 0) + bytes(19) + b"\1" + bytes(4)) * (MILLION // 32),
    "zeros": HEADER + bytes(MILLION),
    "ones": HEADER + b"\xff" * MILLION,
    "zeros and a byte": HEADER + bytes(MILLION) + b"\1",
    "small events": HEADER + event(kinds.SEPARATOR, b"") * (MILLION // 50),
    "one string": HEADER + event(kinds.IPL, b"\\" * MILLION),
    "lines": HEADER + event(kinds.IPL, b"\n" * MILLION),
    "load option": HEADER
    + event(
        kinds.EFI_VARIABLE_BOOT,
        bytes(16) + pack("<QQ", 8, MILLION) + "Boot0000".encode("utf-16-le") + b"\1\0" * (MILLION // 2),
    ),
    "odd zeros": HEADER
    + event(
        kinds.EFI_VARIABLE_BOOT,
        bytes(16) + pack("<QQ", 8, MILLION) + "Boot0000".encode("utf-16-le") + b"\1" * 7 + b"\0\0\1\1" * (MILLION // 4),
    ),
    "name": HEADER + event(kinds.EFI_VARIABLE_BOOT, bytes(16) + pack("<QQ", MILLION // 2, 0) + b"1\0" * (MILLION // 2)),
    "digits": HEADER
    + event(kinds.EFI_VARIABLE_AUTHORITY, bytes(16) + pack("<QQ", 2, MILLION) + b"d\0b\0" + b"\x11" * MILLION),
    "vendor_db": HEADER
    + event(
        kinds.EFI_VARIABLE_AUTHORITY,
        bytes(16)
        + pack("<QQ", 9, MILLION)
        + "vendor_db".encode("utf-16-le")
        + (bytes(16) + b"\x30\x82\0\0") * (MILLION // 20),
    ),
    "device path": HEADER
    + event(kinds.EFI_BOOT_SERVICES_DRIVER, pack("<QQQQ", 0, 0, 0, MILLION) + b"\1\1\6\0\1\2" * (MILLION // 6)),
    "signature lists": HEADER
    + event(
        kinds.EFI_VARIABLE_DRIVER_CONFIG,
        bytes(16) + pack("<QQ", 2, MILLION // 28 * 28) + b"d\0b\0" + (bytes(16) + pack("<III", 28, 0, 17)) * (MILLION // 28),
    ),
}


@pytest.mark.alone
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_takes_less_than_a_second(name):
    data = HOSTILE[name]
    assert len(data) > 0.9 * MILLION
    started = time.process_time()
    exercise(data)
    assert time.process_time() - started < 1.5  # three passes: strict, unpadded, dictionary


@pytest.mark.alone
def test_a_usual_log_is_parsed_and_replayed_in_under_a_millisecond():
    log = sample_boot(BootLog(("sha256",)))
    while len(bytes(log)) < 40_000:
        log.add(8, kinds.IPL, b"grub_cmd: " + b"x" * 300 + b"\0")
    data = bytes(log)
    assert isinstance(parse_log(data), EventLog)
    best = min(_seconds(data) for _ in range(30))
    assert best < 0.001


def _seconds(data: bytes) -> float:
    started = time.perf_counter()
    replay(parse_log(data))
    return time.perf_counter() - started
