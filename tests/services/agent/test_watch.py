"""Change notices over a real bus: quick, few, and the last one always."""

from __future__ import annotations

import asyncio
import time

import pytest

from attestream.bus.connection import Bus
from attestream.rates import TokenBucket
from devtools.evidence_stream import EvidenceStream
from devtools.ima_emulator import ImaEmulator
from schemas.attestation import ChangeNotice
from services.agent.ima_log import ImaLog
from services.agent.watch import NOTICE_BURST, NOTICE_INTERVAL_S, Watch


def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.alone
async def test_a_change_is_told_within_100_ms(bus: Bus, stream: EvidenceStream, emulator: ImaEmulator) -> None:
    watch = Watch(bus, "host.1", ImaLog(emulator.binary_log), poll_s=0.02, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    delays = []
    for number in range(5):
        before = time.monotonic()
        await asyncio.to_thread(emulator.run, f"/bin/{number}", b"x")
        found = await stream.count(number + 1)
        delays.append(time.monotonic() - before)
        notice = found[-1][1]
        assert isinstance(notice, ChangeNotice)
        assert notice.entries == number + 2
        assert abs(notice.at - now()) < 5_000
        await asyncio.sleep(NOTICE_INTERVAL_S)
    task.cancel()
    assert sorted(delays)[2] < 0.1


async def test_many_changes_are_told_together_and_the_last_one_always(
    bus: Bus, stream: EvidenceStream, emulator: ImaEmulator
) -> None:
    watch = Watch(bus, "host.1", ImaLog(emulator.ascii_log, ascii_form=True), poll_s=0.005, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    start = time.monotonic()
    for number in range(100):
        await asyncio.to_thread(emulator.run, f"/bin/{number}", b"x")
        await asyncio.sleep(0.002)
    found = await stream.until(
        lambda messages: bool(messages) and isinstance(last := messages[-1][1], ChangeNotice) and last.entries == 101
    )
    took = time.monotonic() - start
    task.cancel()
    assert len(found) <= NOTICE_BURST + took / NOTICE_INTERVAL_S + 1


async def test_a_log_that_begins_anew_is_told(bus: Bus, stream: EvidenceStream, emulator: ImaEmulator) -> None:
    emulator.run("/bin/a", b"x")
    watch = Watch(bus, "host.1", ImaLog(emulator.binary_log), poll_s=0.01, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    emulator.binary_log.write_bytes(b"")
    ((_, notice),) = await stream.count(1)
    task.cancel()
    assert isinstance(notice, ChangeNotice)
    assert notice.entries == 0


def test_the_bucket_gives_a_burst_and_then_its_rate() -> None:
    at = 0.0
    bucket = TokenBucket(0.1, 3, lambda: at)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    at = 0.05
    assert not bucket.take()
    at = 0.11
    assert [bucket.take(), bucket.take()] == [True, False]
    at = 60.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
