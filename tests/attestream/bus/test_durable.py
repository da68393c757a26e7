from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from attestream.bus import jetstream
from attestream.bus.durable import Ack
from attestream.bus.stored import last_message, last_messages
from attestream.errors import BusError, FencedError
from schemas import subjects
from schemas.attestation import Hello
from schemas.base import decode


def hello(at: int) -> Hello:
    return Hello(agent_id="a", enrolment=1, at=at)


async def count(bus, stream: str) -> int:
    return (await jetstream.call(bus, f"STREAM.INFO.{stream}"))["state"]["messages"]


async def test_stored_message_carries_id_and_content_type(bus):
    ack = await bus.publish_durable(subjects.event("failed", "a"), hello(1), message_id="m1")
    assert ack == Ack(sequence=1, duplicate=False)
    (stored,) = await last_messages(bus, "EVENTS", [subjects.event("failed", "a")])
    assert stored.headers[subjects.HEADER_MESSAGE_ID] == "m1"
    assert stored.headers[subjects.HEADER_CONTENT_TYPE] == subjects.CONTENT_TYPE
    assert decode(stored.data, Hello) == hello(1)


async def test_second_publication_of_an_id_is_not_stored_twice(bus):
    subject = subjects.event("failed", "a")
    first = await bus.publish_durable(subject, hello(1), message_id="m1")
    assert await bus.publish_durable(subject, hello(1), message_id="m1") == Ack(sequence=first.sequence, duplicate=True)
    assert await count(bus, "EVENTS") == 1


async def test_publication_is_retried_through_a_killed_server(bus, nats_server, eventually):
    nats_server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    waiting = [
        asyncio.create_task(bus.publish_durable(subjects.event("failed", "a"), hello(i), message_id=f"m{i}"))
        for i in range(20)
    ]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    nats_server.start()
    acks = await asyncio.gather(*waiting)
    assert sorted(ack.sequence for ack in acks) == list(range(1, 21))
    assert await count(bus, "EVENTS") == 20


async def test_publications_under_way_when_the_server_is_killed_are_stored_once(bus, nats_server):
    stored: list[int] = []

    async def write(first: int) -> None:
        for i in range(first, first + 100):
            ack = await bus.publish_durable(subjects.event("failed", f"a{i}"), hello(i), message_id=f"m{i}")
            stored.append(ack.sequence)
            if len(stored) == 150:
                nats_server.kill()
                nats_server.start()

    await asyncio.gather(*(write(first) for first in range(0, 400, 100)))
    assert len(set(stored)) == 400
    assert await count(bus, "EVENTS") == 400


async def test_timed_out_publication_that_arrives_late_counts_as_stored(bus, nats_server, eventually):
    """The server takes the first attempt late, then sees the second: a repeat, or refused for what the first has changed."""
    threads = Path(f"/proc/{nats_server.pid}/task")
    os.kill(nats_server.pid, signal.SIGSTOP)
    await eventually(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))
    own = subjects.result("b")
    before = bus.nc.stats["out_msgs"]
    plain = asyncio.create_task(bus.publish_durable(subjects.event("failed", "a"), hello(1), message_id="m1"))
    guarded = asyncio.create_task(bus.publish_durable(own, hello(1), message_id="m2", guard=(own, 0)))
    await eventually(lambda: bus.nc.stats["out_msgs"] >= before + 4)
    os.kill(nats_server.pid, signal.SIGCONT)
    assert (await plain, await guarded) == (Ack(sequence=1, duplicate=True), Ack(sequence=1, duplicate=True))
    assert await count(bus, "EVENTS") == 1
    assert await count(bus, "RESULTS") == 1


@pytest.mark.parametrize(
    ("fence", "written"),
    [(subjects.event_fence(5), subjects.event("failed", "a")), (subjects.result_fence(5), subjects.result("a"))],
)
async def test_ex_owner_is_fenced_by_the_next_owners_marker(bus, fence, written):
    old = await bus.publish_durable(fence, b"old", message_id="f1")
    for i in range(3):
        await bus.publish_durable(written, hello(i), message_id=f"m{i}", guard=(fence, old.sequence))
    new = await bus.publish_durable(fence, b"new", message_id="f2")
    with pytest.raises(FencedError, match=f"not at {old.sequence}"):
        await bus.publish_durable(written, hello(9), message_id="m9", guard=(fence, old.sequence))
    await bus.publish_durable(written, hello(10), message_id="m10", guard=(fence, new.sequence))
    last = await last_message(bus, "EVENTS" if "event" in fence else "RESULTS", written)
    assert decode(last.data, Hello).at == 10


async def test_many_guarded_publications_at_once_pass(bus):
    fence = subjects.event_fence(1)
    owned = await bus.publish_durable(fence, b"", message_id="f")
    acks = await asyncio.gather(
        *(
            bus.publish_durable(
                subjects.event("failed", f"a{i}"), hello(i), message_id=f"m{i}", guard=(fence, owned.sequence)
            )
            for i in range(100)
        )
    )
    assert len({ack.sequence for ack in acks}) == 100


async def test_two_takers_of_one_fence_do_not_both_win(bus):
    fence = subjects.event_fence(2)
    results = await asyncio.gather(
        *(bus.publish_durable(fence, b"", message_id=f"f{i}", guard=(fence, 0)) for i in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Ack) for result in results) == 1
    assert sum(isinstance(result, FencedError) for result in results) == 4


@pytest.mark.alone
async def test_subject_of_no_stream_is_an_error_in_time(bus):
    started = asyncio.get_running_loop().time()
    with pytest.raises(BusError, match="could not be published"):
        await bus.publish_durable("nowhere.at.all", b"x", message_id="m", timeout_s=0.4)
    assert asyncio.get_running_loop().time() - started < 2


@pytest.mark.alone
async def test_refusal_for_good_is_not_retried(bus):
    started = asyncio.get_running_loop().time()
    with pytest.raises(BusError, match="was refused"):
        await bus.publish_durable(subjects.event("failed", "a"), b"x", message_id="m", ttl_s=5)
    assert asyncio.get_running_loop().time() - started < 1
