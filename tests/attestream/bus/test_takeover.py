from __future__ import annotations

import asyncio

from attestream.bus import jetstream
from attestream.bus.consume import DEFERRED, Consumer
from attestream.bus.takeover import take_over
from schemas import subjects

FILTERS = ["att.evidence.>"]


async def test_what_a_dead_owner_was_given_comes_again_at_once_and_in_order(bus, eventually, consumer_info):
    for number in range(6):
        await bus.publish_durable(subjects.evidence("a"), str(number).encode(), message_id=str(number))
    held = asyncio.Event()

    async def first_owner(delivery):
        if delivery.data == b"3":
            held.set()
        return DEFERRED if delivery.data >= b"2" else None

    dead = Consumer(bus, "EVIDENCE", "t", first_owner, filters=FILTERS, batch=4, ack_wait_s=60)
    await dead.start()
    await held.wait()
    async with asyncio.timeout(30):
        # An acknowledgement that is on its way may come too late: its message would come again.
        while (await consumer_info("EVIDENCE", "t"))["ack_floor"]["stream_seq"] < 2:
            await asyncio.sleep(0.01)
    # Its process has gone: nothing is given back.
    await dead._subscription.unsubscribe()

    assert await take_over(bus, "EVIDENCE", "t") >= 4
    seen = []

    async def second_owner(delivery):
        seen.append(delivery.data)

    async with Consumer(bus, "EVIDENCE", "t", second_owner, filters=FILTERS, batch=4, ack_wait_s=60):
        await eventually(lambda: len(seen) == 4)
    assert seen == [b"2", b"3", b"4", b"5"]


async def test_a_consumer_that_owes_nothing_is_left_as_it_is(bus, eventually):
    assert await take_over(bus, "EVIDENCE", "t") == 0
    await bus.publish_durable(subjects.evidence("a"), b"0", message_id="0")
    seen = []

    async def owner(delivery):
        seen.append(delivery.sequence)

    async with Consumer(bus, "EVIDENCE", "t", owner, filters=FILTERS):
        await eventually(lambda: seen)
    created = (await jetstream.call(bus, "CONSUMER.INFO.EVIDENCE.t"))["created"]
    assert await take_over(bus, "EVIDENCE", "t") == seen[-1]
    assert (await jetstream.call(bus, "CONSUMER.INFO.EVIDENCE.t"))["created"] == created


async def test_a_stalled_users_pulls_get_nothing_after_a_takeover(bus, eventually, consumer_info):
    stalled, seen = [], []

    async def first_owner(delivery):
        stalled.append(delivery.data)

    async def second_owner(delivery):
        seen.append(delivery.data)

    first = Consumer(bus, "EVIDENCE", "t", first_owner, filters=FILTERS)
    await first.start()
    async with asyncio.timeout(30):
        while not (await consumer_info("EVIDENCE", "t"))["num_waiting"]:
            await asyncio.sleep(0.01)
    first._stopping = True  # it can not do anything about what follows
    await take_over(bus, "EVIDENCE", "t")
    async with Consumer(bus, "EVIDENCE", "t", second_owner, filters=FILTERS):
        await bus.publish_durable(subjects.evidence("a"), b"0", message_id="0")
        await eventually(lambda: seen)
    assert stalled == []
