from struct import pack

import pytest

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.uefi import kinds
from attestream.uefi.log import MAX_EVENTS, MAX_LOG_BYTES
from attestream.uefi.parser import parse_log
from devtools.boot_log import BootLog
from devtools.sample_boot import sample_boot


@pytest.fixture
def agile() -> bytes:
    return bytes(sample_boot(BootLog(("sha1", "sha256", "sha384"))))


@pytest.fixture
def legacy() -> bytes:
    return bytes(sample_boot(BootLog(legacy=True)))


def test_reads_a_crypto_agile_log(agile):
    log = parse_log(agile)
    assert log.spec_id is not None
    assert log.spec_id.algorithms == ((0x0004, 20), (0x000B, 32), (0x000C, 48))
    assert log.header is not None
    assert (log.header.number, log.header.offset) == (0, 0)
    assert [event.number for event in log.events] == list(range(1, len(log.events) + 1))
    assert (log.size, log.padding) == (len(agile), 0)
    assert {len(event.digests) for event in log.events} == {3}
    last = log.events[-1]
    assert (last.pcr, last.kind, last.data) == (5, kinds.EFI_ACTION, b"Exit Boot Services Invocation")
    assert agile[last.offset :][:8] == pack("<II", 5, kinds.EFI_ACTION)


def test_reads_a_sha1_log(legacy, agile):
    log = parse_log(legacy)
    assert log.spec_id is None
    assert log.header is None
    assert log.algorithms == (0x0004,)
    other = parse_log(agile)
    assert [(e.pcr, e.kind, e.data, e.digest(4)) for e in log.events] == [
        (e.pcr, e.kind, e.data, e.digest(4)) for e in other.events
    ]


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("count", [1, 3, 15, 16, 64, 4096])
def test_recognises_the_unused_rest_of_a_firmware_table(agile, legacy, fill, count):
    for data in (agile, legacy):
        log = parse_log(data + fill * count)
        assert (log.size, log.padding) == (len(data), count)
        assert log.events == parse_log(data).events


@pytest.mark.parametrize("tail", [b"\0" * 64 + b"\1", b"\xff" * 64 + b"\0", b"\0\xff" * 20])
def test_refuses_a_tail_that_is_neither_padding_nor_events(agile, legacy, tail):
    for data in (agile, legacy):
        with pytest.raises(MalformedError):
            parse_log(data + tail)


def test_without_padding_zeros_are_events_and_ones_an_error(agile):
    log = parse_log(agile + bytes(64), padded=False)
    assert [(event.kind, event.digests, event.data) for event in log.events[-4:]] == [(0, (), b"")] * 4
    with pytest.raises(MalformedError):
        parse_log(agile + b"\xff" * 64, padded=False)


@pytest.mark.parametrize("name", ["agile", "legacy"])
def test_every_truncation_within_an_event_is_an_error_with_its_offset(name, request):
    data = request.getfixturevalue(name)
    log = parse_log(data)
    starts = [event.offset for event in log.events if event.offset]
    for length in range(len(data)):
        begun = data[max((start for start in starts if start <= length), default=0) : length]
        if length >= starts[0] and not any(begun):
            # Between events, or some zeros behind the last whole one: that is a shorter log, which the PCRs will refuse.
            assert parse_log(data[:length]).size == length - len(begun)
            continue
        with pytest.raises(MalformedError, match=f"byte {length}"):
            parse_log(data[:length])


def test_refuses_an_empty_log():
    with pytest.raises(MalformedError):
        parse_log(b"")


def test_refuses_a_log_over_its_bounds():
    with pytest.raises(TooLargeError):
        parse_log(bytes(MAX_LOG_BYTES + 1))
    event = pack("<II20sI", 1, kinds.SEPARATOR, b"\1" * 20, 0)
    with pytest.raises(TooLargeError, match="65536 events"):
        parse_log(event * (MAX_EVENTS + 1))


SHA256 = pack("<HH", 0xB, 32)


def header(*, pcr=0, digest=bytes(20), signature=b"Spec ID Event03\0", count=1, algorithms=SHA256, tail=b"\0"):
    body = signature + pack("<IBBBBI", 0, 0, 2, 0, 2, count) + algorithms + tail
    return pack("<II20sI", pcr, kinds.NO_ACTION, digest, len(body)) + body


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (header(pcr=2), MalformedError),
        (header(digest=b"\1" * 20), MalformedError),
        (header(signature=b"Spec ID Event02\0"), UnsupportedError),
        (header(count=0), MalformedError),
        (header(count=2), MalformedError),
        (header(count=17, algorithms=pack("<HH", 0xB, 32) * 17), MalformedError),
        (header(count=2, algorithms=pack("<HH", 0xB, 32) * 2), MalformedError),
        (header(algorithms=pack("<HH", 0xB, 20)), MalformedError),
        (header(algorithms=pack("<HH", 0x99, 0)), MalformedError),
        (header(algorithms=pack("<HH", 0x99, 65)), MalformedError),
        (header(tail=b"\4\1\2"), MalformedError),
        (header(tail=b""), MalformedError),
    ],
    ids=["pcr", "digest", "version", "none", "missing", "many", "twice", "size", "zero", "large", "vendor", "no-vendor"],
)
def test_refuses_a_wrong_header(data, error):
    with pytest.raises(error):
        parse_log(data)


def test_keeps_vendor_data_and_the_digests_of_an_unknown_algorithm():
    event = pack("<III", 4, kinds.SEPARATOR, 1) + pack("<H", 0x99) + b"\5" * 24 + pack("<I", 4) + bytes(4)
    log = parse_log(header(algorithms=pack("<HH", 0x99, 24), tail=b"\4abcd") + event)
    assert log.spec_id is not None
    assert log.spec_id.vendor_info == b"abcd"
    assert log.events[0].digest(0x99) == b"\5" * 24


def agile_event(pcr=4, kind=kinds.SEPARATOR, digests=((0xB, bytes(32)),), count=None, data=b""):
    body = b"".join(pack("<H", algorithm) + value for algorithm, value in digests)
    return pack("<III", pcr, kind, len(digests) if count is None else count) + body + pack("<I", len(data)) + data


@pytest.mark.parametrize(
    "event",
    [
        agile_event(pcr=24),
        agile_event(pcr=0xFFFFFFFF),
        agile_event(digests=((0x4, bytes(20)),)),
        agile_event(count=2),
        agile_event(digests=(), data=b"x"),
        agile_event(count=0xFFFFFFFF),
    ],
    ids=["pcr-24", "pcr-ffffffff", "undeclared", "short", "no-digest", "many"],
)
def test_refuses_a_wrong_event(event):
    with pytest.raises(MalformedError):
        parse_log(header() + event + agile_event())


def test_refuses_two_digests_of_one_algorithm():
    log = header(count=2, algorithms=pack("<HHHH", 0xB, 32, 0x4, 20))
    with pytest.raises(MalformedError, match="two digests"):
        parse_log(log + agile_event(digests=((0xB, bytes(32)), (0xB, bytes(32)))))


def test_takes_the_events_without_pcr_that_windows_writes():
    log = parse_log(header() + agile_event(pcr=0xFFFFFFFF, kind=kinds.NO_ACTION))
    assert log.events[0].pcr == 0xFFFFFFFF
