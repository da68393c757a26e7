from __future__ import annotations

import asyncio
import time

import pytest

from attestream.bus.stored import get_batch, last_message, last_messages, replica_message
from attestream.errors import BusError
from schemas import subjects


async def fill(bus, count: int) -> None:
    for start in range(0, count, 128):
        await asyncio.gather(
            *(
                bus.publish_durable(subjects.result(f"a{i}"), b"%d" % i, message_id=f"m{i}")
                for i in range(start, start + 128)
            )
        )


async def test_last_message_of_each_subject_in_the_streams_order(bus):
    for number, agent in enumerate("abcab"):
        await bus.publish_durable(subjects.event("failed", agent), b"%d" % number, message_id=f"m{number}")
    found = await last_messages(
        bus, "EVENTS", [subjects.event("failed", "b"), subjects.event("failed", "c"), "att.event.*.a"]
    )
    assert [(message.subject[-1], message.data, message.sequence) for message in found] == [
        ("c", b"2", 3),
        ("a", b"3", 4),
        ("b", b"4", 5),
    ]
    assert abs(found[0].at - time.time() * 1000) < 60_000


async def test_nothing_stored(bus):
    assert await last_messages(bus, "EVENTS", [subjects.EVENTS]) == []
    assert await last_messages(bus, "EVENTS", []) == []
    assert await last_message(bus, "EVENTS", subjects.event("failed", "a")) is None


async def test_more_subjects_than_the_server_answers_at_once(bus):
    """The server answers 413 to a wildcard over more than 1,024 subjects."""
    await fill(bus, 1408)
    assert (await get_batch(bus, "RESULTS", {"multi_last": [subjects.RESULTS], "batch": 10})).status == "413"
    found = await last_messages(bus, "RESULTS", [subjects.RESULTS])
    assert [message.sequence for message in found] == list(range(1, 1409))
    assert {message.data for message in found} == {b"%d" % i for i in range(1408)}
    named = await last_messages(bus, "RESULTS", [subjects.result(f"a{i}") for i in range(1408)])
    assert [message.data for message in named] == [message.data for message in found]


async def test_message_that_poses_as_the_end_is_a_message(bus):
    headers = {"Status": "204", "Nats-Num-Pending": "0", "Nats-Subject": "forged", "Nats-Sequence": "999"}
    await bus.publish_durable(subjects.event("failed", "a"), b"1", message_id="1", headers=headers)
    await bus.publish_durable(subjects.event("failed", "b"), b"2", message_id="2")
    found = await last_messages(bus, "EVENTS", [subjects.EVENTS])
    assert [(message.sequence, message.subject, message.data) for message in found] == [
        (1, subjects.event("failed", "a"), b"1"),
        (2, subjects.event("failed", "b"), b"2"),
    ]


async def test_leader_and_direct_get_agree(bus):
    await bus.publish_durable(subjects.event("failed", "a"), b"\x00\xff", message_id="1", headers={"X-A": "b: c"})
    (direct,) = await last_messages(bus, "EVENTS", [subjects.event("failed", "a")])
    leader = await last_message(bus, "EVENTS", subjects.event("failed", "a"))
    assert (leader.subject, leader.sequence, leader.data, leader.at) == (
        direct.subject,
        direct.sequence,
        direct.data,
        direct.at,
    )
    assert leader.headers["X-A"] == direct.headers["X-A"] == "b: c"


async def test_reading_waits_for_a_restart(bus, nats_server, eventually):
    await bus.publish_durable(subjects.event("failed", "a"), b"1", message_id="1")
    nats_server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    reading = asyncio.create_task(last_messages(bus, "EVENTS", [subjects.EVENTS]))
    await asyncio.sleep(0.1)
    nats_server.start()
    assert len(await reading) == 1


async def test_unknown_stream_is_an_error(bus):
    with pytest.raises(BusError):
        await last_message(bus, "NONE", "x")


async def test_last_message_of_a_subject_is_read_by_its_own_right(bus):
    subject = "$KV.attestream.roster"
    assert await replica_message(bus, "KV_attestream", subject) is None
    await bus.publish_durable(subject, b"first", message_id="1")
    await bus.publish_durable(subject, b"second", message_id="2")
    found = await replica_message(bus, "KV_attestream", subject)
    assert found is not None
    assert (found.subject, found.data, found.headers["Nats-Msg-Id"]) == (subject, b"second", "2")
