"""Challenges over a real bus: bare answers to whoever asked, news and notices over the stream."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attestream.bus.connection import Bus
from attestream.bus.stored import get_batch
from attestream.embedded.nats import NatsServer
from attestream.tpm.structures import parse_quote
from devtools.ima_emulator import ImaEmulator
from devtools.swtpm import Swtpm
from schemas import subjects, topology
from schemas.attestation import PART_BYTES, Challenge, ChangeNotice, Evidence, EvidencePart, Hello, Inbound
from schemas.base import Decoder, encode
from services.agent.answering import Answerer
from services.agent.evidence import Attester, EvidenceMaker
from services.agent.ima_log import ImaLog
from services.agent.presence import Presence
from services.agent.tpm_device import TpmDevice
from services.agent.watch import NOTICE_BURST, NOTICE_INTERVAL_S, TokenBucket, Watch

INBOUND = Decoder[Inbound](Inbound)  # type: ignore[type-var]
ATTESTER = Attester(agent_id="host.1", enrolment=2, transport_key=hashlib.sha256(b"key").digest())


def now() -> int:
    return time.time_ns() // 1_000_000


async def stored(bus: Bus) -> list[tuple[str, Inbound]]:
    """Message ids and messages of EVIDENCE."""
    batch = await get_batch(bus, topology.EVIDENCE.name, {"seq": 1, "batch": 1000, "next_by_subj": ">"})
    return [(one.headers[subjects.HEADER_MESSAGE_ID], INBOUND.decode(one.data)) for one in batch.messages]


async def until(condition: Callable[[list[tuple[str, Inbound]]], bool], bus: Bus) -> list[tuple[str, Inbound]]:
    async with asyncio.timeout(10):
        while not condition(found := await stored(bus)):
            await asyncio.sleep(0.01)
    return found


def id_of(seq: int, part: int | None = None) -> str:
    """Message id of evidence, or of one of its parts."""
    return f"host.1:2:{seq}:{(b'n' * 8).hex()}" + ("" if part is None else f":{part}")


def challenge(seq: int = 1, **fields: object) -> Challenge:
    at = now()
    values: dict[str, object] = {
        "agent_id": "host.1",
        "nonce": b"n" * 32,
        "seq": seq,
        "issued_at": at,
        "deadline": at + 5_000,
        "banks": {"sha256": [0, 10]},
        "ima_from": 0,
    }
    return Challenge(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture
async def answerer(bus: Bus, device: TpmDevice, emulator: ImaEmulator) -> AsyncIterator[Answerer]:
    executor = ThreadPoolExecutor(1)
    maker = EvidenceMaker(ATTESTER, device, ima=ImaLog(emulator.binary_log))
    made = Answerer(bus, "host.1", maker, executor)
    task = asyncio.create_task(made.run())
    await bus.subscribe(subjects.challenge("host.1"), made.hear)
    yield made
    task.cancel()
    executor.shutdown()


async def test_news_go_to_the_stream_and_bare_answers_to_the_asker(bus: Bus, answerer: Answerer) -> None:
    await bus.publish(subjects.challenge("host.1"), challenge(1))
    ((message_id, news),) = await until(bool, bus)
    assert message_id == id_of(1)
    assert isinstance(news, Evidence)
    assert news.ima is not None
    assert news.ima.count == 1
    known = parse_quote(news.quote).pcr_digest
    bare = await bus.request(
        subjects.challenge("host.1"), challenge(2, known_digest=known, ima_from=1), Evidence, timeout_s=5
    )
    assert (bare.seq, bare.pcr_values, bare.ima) == (2, {}, None)
    assert len(await stored(bus)) == 1


async def test_evidence_with_a_large_log_comes_in_parts_in_order(
    bus: Bus, answerer: Answerer, emulator: ImaEmulator
) -> None:
    for number in range(130):
        emulator.run(f"/usr/share/{'x' * 4000}/{number}", b"x")
    await bus.publish(subjects.challenge("host.1"), challenge(9))
    found = await until(lambda messages: len(messages) >= 4, bus)
    head = found[0][1]
    assert isinstance(head, Evidence)
    assert head.ima is not None
    assert (head.parts, head.ima.count, head.ima.data) == (3, 131, b"")
    assert [message_id for message_id, _ in found] == [id_of(9), *(id_of(9, part) for part in range(3))]
    parts = [message for _, message in found if isinstance(message, EvidencePart)]
    assert [len(part.data) for part in parts][:2] == [PART_BYTES, PART_BYTES]
    assert b"".join(part.data for part in parts) == emulator.binary_log.read_bytes()


async def test_the_newest_challenge_is_answered_and_the_ones_before_it_are_not(bus: Bus, answerer: Answerer) -> None:
    for seq in range(1, 51):
        await bus.publish(subjects.challenge("host.1"), challenge(seq))
    found = await until(lambda messages: bool(messages) and messages[-1][0] == id_of(50), bus)
    assert len(found) < 50


async def test_bad_challenges_are_not_answered(bus: Bus, answerer: Answerer) -> None:
    subject = subjects.challenge("host.1")
    await bus.nc.publish(subject, b"\x00garbage")
    await bus.nc.publish(subject, encode(Hello(agent_id="host.1", enrolment=1, at=1)))
    await bus.publish(subject, challenge(1, agent_id="host.2"))
    await bus.publish(subject, challenge(2, banks={"sha256": [99]}))
    await bus.publish(subject, challenge(3, deadline=now() - 1))
    await bus.nc.flush()
    # Its clock may be wrong by years: what counts is how long a challenge lives, not when.
    await bus.publish(subject, challenge(4, issued_at=1_000, deadline=6_000))
    assert [message_id for message_id, _ in await until(bool, bus)] == [id_of(4)]


async def test_a_tpm_that_fails_does_not_end_the_agent(
    bus: Bus, swtpm: Swtpm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = TpmDevice(swtpm.tcti, tmp_path / "agent", ak="p256", busy_s=0.01)
    device.attestation_key()
    made = Answerer(bus, "host.1", EvidenceMaker(ATTESTER, device), ThreadPoolExecutor(1))
    task = asyncio.create_task(made.run())
    await bus.subscribe(subjects.challenge("host.1"), made.hear)
    swtpm.stop()
    await bus.publish(subjects.challenge("host.1"), challenge(1))
    async with asyncio.timeout(10):
        while "challenge 1 was not answered" not in caplog.text:
            await asyncio.sleep(0.01)
    swtpm.start()
    await bus.publish(subjects.challenge("host.1"), challenge(2))
    assert [message_id for message_id, _ in await until(bool, bus)] == [id_of(2)]
    task.cancel()


async def test_a_change_is_told_within_100_ms(bus: Bus, emulator: ImaEmulator) -> None:
    watch = Watch(bus, "host.1", ImaLog(emulator.binary_log), poll_s=0.02, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    delays = []
    for number in range(5):
        before = time.monotonic()
        await asyncio.to_thread(emulator.run, f"/bin/{number}", b"x")
        found = await until(lambda messages, count=number: len(messages) > count, bus)
        delays.append(time.monotonic() - before)
        notice = found[-1][1]
        assert isinstance(notice, ChangeNotice)
        assert notice.entries == number + 2
        assert abs(notice.at - now()) < 5_000
        await asyncio.sleep(NOTICE_INTERVAL_S)
    task.cancel()
    assert sorted(delays)[2] < 0.1


async def test_many_changes_are_told_together_and_the_last_one_always(bus: Bus, emulator: ImaEmulator) -> None:
    watch = Watch(bus, "host.1", ImaLog(emulator.ascii_log, ascii_form=True), poll_s=0.005, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    start = time.monotonic()
    for number in range(100):
        await asyncio.to_thread(emulator.run, f"/bin/{number}", b"x")
        await asyncio.sleep(0.002)
    found = await until(
        lambda messages: bool(messages) and isinstance(last := messages[-1][1], ChangeNotice) and last.entries == 101, bus
    )
    took = time.monotonic() - start
    task.cancel()
    assert len(found) <= NOTICE_BURST + took / NOTICE_INTERVAL_S + 1


async def test_a_log_that_begins_anew_is_told(bus: Bus, emulator: ImaEmulator) -> None:
    emulator.run("/bin/a", b"x")
    watch = Watch(bus, "host.1", ImaLog(emulator.binary_log), poll_s=0.01, now=now)
    await watch.begin()
    task = asyncio.create_task(watch.run())
    emulator.binary_log.write_bytes(b"")
    ((_, notice),) = await until(bool, bus)
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


async def test_hello_is_said_at_the_start_and_after_each_return(bus: Bus, nats_server: NatsServer) -> None:
    presence = Presence(bus, "host.1", 4, now=now)
    task = asyncio.create_task(presence.run())
    ((_, hello),) = await until(bool, bus)
    assert isinstance(hello, Hello)
    assert (hello.agent_id, hello.enrolment) == ("host.1", 4)
    nats_server.kill()
    nats_server.start()
    await until(lambda messages: len(messages) == 2, bus)
    task.cancel()
