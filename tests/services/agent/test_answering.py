"""Challenges over a real bus: bare answers to whoever asked, news and notices over the stream."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attestream.bus.connection import Bus
from attestream.tpm.structures import parse_quote
from devtools.evidence_stream import EvidenceStream
from devtools.ima_emulator import ImaEmulator
from devtools.swtpm import Swtpm
from schemas import subjects
from schemas.attestation import PART_BYTES, Challenge, Evidence, EvidencePart, Hello
from schemas.base import encode
from services.agent.answering import Answerer
from services.agent.evidence import Attester, EvidenceMaker
from services.agent.ima_log import ImaLog
from services.agent.tpm_device import TpmDevice

ATTESTER = Attester(agent_id="host.1", enrolment=2, transport_key=hashlib.sha256(b"key").digest())


def now() -> int:
    return time.time_ns() // 1_000_000


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


async def test_news_go_to_the_stream_and_bare_answers_to_the_asker(
    bus: Bus, stream: EvidenceStream, answerer: Answerer
) -> None:
    await bus.publish(subjects.challenge("host.1"), challenge(1))
    ((message_id, news),) = await stream.count(1)
    assert message_id == id_of(1)
    assert isinstance(news, Evidence)
    assert news.ima is not None
    assert news.ima.count == 1
    known = parse_quote(news.quote).pcr_digest
    bare = await bus.request(
        subjects.challenge("host.1"), challenge(2, known_digest=known, ima_from=1), Evidence, timeout_s=30
    )
    assert (bare.seq, bare.pcr_values, bare.ima) == (2, {}, None)
    assert len(await stream.sent()) == 1


async def test_evidence_with_a_large_log_comes_in_parts_in_order(
    bus: Bus, stream: EvidenceStream, answerer: Answerer, emulator: ImaEmulator
) -> None:
    for number in range(130):
        emulator.run(f"/usr/share/{'x' * 4000}/{number}", b"x")
    await bus.publish(subjects.challenge("host.1"), challenge(9))
    found = await stream.count(4)
    head = found[0][1]
    assert isinstance(head, Evidence)
    assert head.ima is not None
    assert (head.parts, head.ima.count, head.ima.data) == (3, 131, b"")
    assert [message_id for message_id, _ in found] == [id_of(9), *(id_of(9, part) for part in range(3))]
    parts = [message for _, message in found if isinstance(message, EvidencePart)]
    assert [len(part.data) for part in parts][:2] == [PART_BYTES, PART_BYTES]
    assert b"".join(part.data for part in parts) == emulator.binary_log.read_bytes()


async def test_the_newest_challenge_is_answered_and_the_ones_before_it_are_not(
    bus: Bus, stream: EvidenceStream, answerer: Answerer
) -> None:
    for seq in range(1, 51):
        await bus.publish(subjects.challenge("host.1"), challenge(seq))
    found = await stream.until(lambda messages: bool(messages) and messages[-1][0] == id_of(50))
    assert len(found) < 50


async def test_bad_challenges_are_not_answered(bus: Bus, stream: EvidenceStream, answerer: Answerer) -> None:
    subject = subjects.challenge("host.1")
    await bus.nc.publish(subject, b"\x00garbage")
    await bus.nc.publish(subject, encode(Hello(agent_id="host.1", enrolment=1, at=1)))
    await bus.publish(subject, challenge(1, agent_id="host.2"))
    await bus.publish(subject, challenge(2, banks={"sha256": [99]}))
    await bus.publish(subject, challenge(3, deadline=now() - 1))
    await bus.nc.flush()
    # Its clock may be wrong by years: what counts is how long a challenge lives, not when.
    await bus.publish(subject, challenge(4, issued_at=1_000, deadline=6_000))
    assert [message_id for message_id, _ in await stream.count(1)] == [id_of(4)]


async def test_a_tpm_that_fails_does_not_end_the_agent(
    bus: Bus,
    stream: EvidenceStream,
    swtpm: Swtpm,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = TpmDevice(swtpm.tcti, tmp_path / "agent", ak="p256", busy_s=0.01)
    device.attestation_key()
    made = Answerer(bus, "host.1", EvidenceMaker(ATTESTER, device), ThreadPoolExecutor(1))
    task = asyncio.create_task(made.run())
    await bus.subscribe(subjects.challenge("host.1"), made.hear)
    swtpm.stop()
    await bus.publish(subjects.challenge("host.1"), challenge(1))
    async with asyncio.timeout(40):
        while "challenge 1 was not answered" not in caplog.text:
            await asyncio.sleep(0.01)
    swtpm.start()
    await bus.publish(subjects.challenge("host.1"), challenge(2))
    assert [message_id for message_id, _ in await stream.count(1)] == [id_of(2)]
    task.cancel()
