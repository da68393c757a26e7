from __future__ import annotations

import asyncio

import pytest

from attestream.bus import jetstream
from attestream.bus.connection import BusSettings, connect
from attestream.bus.consume import DEFERRED, Consumer
from attestream.bus.partitions import partition
from attestream.bus.stored import last_messages
from attestream.errors import BusError, EnrolmentError, StorageError
from schemas import subjects
from schemas.base import SchemaError, decode
from schemas.events import DeadLetter

ALL = ["att.evidence.>"]


async def fill(bus, count: int, agent: str = "a", first: int = 0) -> None:
    for start in range(first, first + count, 64):
        await asyncio.gather(
            *(
                bus.publish_durable(subjects.evidence(agent), str(i).encode(), message_id=f"{agent}{i}")
                for i in range(start, min(start + 64, first + count))
            )
        )


class Seen:
    """A handler that notes what it is given, and fails as told."""

    def __init__(self, *errors: Exception, result=None):
        self.deliveries = []
        self.errors = list(errors)
        self.result = result

    async def __call__(self, delivery):
        self.deliveries.append(delivery)
        if self.errors:
            raise self.errors.pop(0)
        return self.result

    @property
    def sequences(self):
        return [delivery.sequence for delivery in self.deliveries]


async def settled(consumer_info, eventually, stream="EVIDENCE", name="t"):
    async with asyncio.timeout(30):
        while True:
            info = await consumer_info(stream, name)
            if not info["num_ack_pending"] and not info["num_pending"]:
                return
            await asyncio.sleep(0.01)


async def test_messages_come_in_order_and_are_acknowledged(bus, eventually, consumer_info):
    await fill(bus, 300)
    seen = Seen()
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL, batch=20):
        await eventually(lambda: len(seen.deliveries) == 300)
        await settled(consumer_info, eventually)
    assert seen.sequences == list(range(1, 301))
    assert {delivery.deliveries for delivery in seen.deliveries} == {1}
    state = (await jetstream.call(bus, "STREAM.INFO.EVIDENCE"))["state"]
    assert state["messages"] == 0, "a work queue keeps nothing that is acknowledged"


async def test_server_and_client_agree_on_the_partition(bus, eventually):
    seen = Seen()
    agents = [f"d432fbb3-c2f1-4a97-9ef7-75bd81c{i:05x}" for i in range(100)] + ["a.b", "x-._Y"]
    for agent in agents:
        await bus.publish_durable(subjects.evidence(agent), b"", message_id=agent)
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: len(seen.deliveries) == len(agents))
    for delivery, agent in zip(seen.deliveries, agents, strict=True):
        assert delivery.subject == f"att.evidence.{partition(subjects.token(agent))}.{subjects.token(agent)}"


async def test_deferred_delivery_is_settled_by_its_owner(bus, eventually, consumer_info):
    await fill(bus, 3)
    seen = Seen(result=DEFERRED)
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: len(seen.deliveries) == 3)
        await bus.nc.flush()
        assert (await consumer_info("EVIDENCE", "t"))["num_ack_pending"] == 3
        for delivery in seen.deliveries:
            await delivery.working()
            await delivery.ack()
        await settled(consumer_info, eventually)


async def test_passing_error_is_tried_again(bus, eventually, consumer_info):
    await fill(bus, 1)
    seen = Seen(StorageError("away"), ValueError("a bug"))
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: len(seen.deliveries) == 3)
        await settled(consumer_info, eventually)
    assert [delivery.deliveries for delivery in seen.deliveries] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "code"),
    [(EnrolmentError("not that TPM"), "enrolment-refused"), (SchemaError("not a message"), "malformed")],
)
async def test_permanent_error_goes_to_the_dead_with_its_reason(bus, eventually, consumer_info, error, code):
    await fill(bus, 1)
    seen = Seen(error)
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: seen.deliveries)
        await settled(consumer_info, eventually)
    (stored,) = await last_messages(bus, "DEAD", [subjects.DEAD])
    letter = decode(stored.data, DeadLetter)
    assert (letter.stream, letter.sequence, letter.deliveries, letter.data) == ("EVIDENCE", 1, 1, b"0")
    assert (letter.code, letter.message) == (code, str(error))
    assert len(seen.deliveries) == 1


async def test_unexpected_error_goes_to_the_dead_after_its_attempts(bus, eventually, consumer_info):
    await fill(bus, 2)
    seen = Seen(ValueError("1"), ValueError("2"))
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL, max_deliveries=1):
        await eventually(lambda: len(seen.deliveries) == 2)
        await settled(consumer_info, eventually)
    state = (await jetstream.call(bus, "STREAM.INFO.DEAD"))["state"]
    assert state["messages"] == 2


async def test_message_stays_while_its_dead_letter_can_not_be_stored(bus, eventually, consumer_info):
    await jetstream.call(bus, "STREAM.DELETE.DEAD")
    await fill(bus, 1)
    seen = Seen(EnrolmentError("1"), EnrolmentError("2"))
    consumer = Consumer(bus, "EVIDENCE", "t", seen, filters=ALL)
    publish = bus.publish_durable
    bus.publish_durable = lambda *args, **named: publish(*args, **(named | {"timeout_s": 0.1}))
    async with consumer:
        await eventually(lambda: len(seen.deliveries) == 3)
        await settled(consumer_info, eventually)


async def test_cancellation_inside_a_handler_does_not_end_the_consumer(bus, eventually):
    await fill(bus, 2)
    seen = Seen(asyncio.CancelledError())
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: len(seen.deliveries) == 3)


async def test_message_that_poses_as_the_servers_word_is_a_message(bus, eventually, consumer_info):
    """An agent chooses the headers of its evidence; a status there must not make its message disappear."""
    seen = Seen()
    for status in ("100", "408", "409", "503"):
        headers = {"Status": status, "Description": "Consumer Deleted", "Nats-Pending-Messages": "9"}
        await bus.publish_durable(subjects.evidence("a"), b"", message_id=status, headers=headers)
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL):
        await eventually(lambda: len(seen.deliveries) == 4)
        await settled(consumer_info, eventually)


async def test_nothing_is_lost_when_the_server_is_killed(bus, nats_server, eventually, consumer_info):
    for number in range(4):  # one agent alone may not have so many
        await fill(bus, 250, agent=f"a{number}")
    seen = Seen()

    async def handler(delivery):
        await seen(delivery)
        if len(seen.deliveries) in (200, 600):
            nats_server.kill()
            nats_server.start()

    async with Consumer(bus, "EVIDENCE", "t", handler, filters=ALL, batch=50, ack_wait_s=1.0, heartbeat_s=0.3):
        await eventually(lambda: len(set(seen.sequences)) == 1000, 60)
        await settled(consumer_info, eventually)
        await fill(bus, 1, first=1000)
        await eventually(lambda: len(set(seen.sequences)) == 1001)


async def test_lost_pull_is_noticed_and_made_again(bus, eventually):
    """nats.py #504, #354: the server forgets a pull with the interest in its inbox, and says nothing."""
    seen = Seen()
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL, heartbeat_s=0.15) as consumer:
        await bus.nc.flush()
        await bus.nc._send_unsubscribe(consumer._subscription._id)
        await bus.nc.flush()
        await jetstream.call(bus, "CONSUMER.INFO.EVIDENCE.t")
        await bus.nc._send_subscribe(consumer._subscription)
        await fill(bus, 1)
        await eventually(lambda: seen.deliveries)
        assert consumer.lost_pulls >= 1


async def test_idle_consumer_does_not_take_silence_for_loss(bus, eventually):
    seen = Seen()
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL, heartbeat_s=0.1) as consumer:
        await asyncio.sleep(0.8)
        assert consumer.lost_pulls == 0


async def test_deleted_consumer_is_made_again(bus, eventually):
    seen = Seen()
    async with Consumer(bus, "EVIDENCE", "t", seen, filters=ALL, heartbeat_s=0.2):
        await jetstream.call(bus, "CONSUMER.DELETE.EVIDENCE.t")
        await fill(bus, 1)
        await eventually(lambda: seen.deliveries)


async def test_stopping_gives_back_what_was_buffered_in_order(bus, eventually):
    await fill(bus, 50)
    first, second = Seen(), Seen()
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(delivery):
        started.set()
        await go.wait()
        await first(delivery)

    consumer = Consumer(bus, "EVIDENCE", "t", slow, filters=ALL, ack_wait_s=60.0)
    await consumer.start()
    await started.wait()
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.sleep(0)
    go.set()
    await stopping
    assert first.sequences == [1], "only the message that was being handled"
    async with Consumer(bus, "EVIDENCE", "t", second, filters=ALL, ack_wait_s=60.0):
        await eventually(lambda: len(second.deliveries) == 49)
    assert second.sequences == list(range(2, 51))


@pytest.mark.alone
async def test_stopping_does_not_wait_for_a_bus_that_is_gone(bus, nats_server, eventually):
    consumer = Consumer(bus, "EVIDENCE", "t", Seen(), filters=ALL)
    await consumer.start()
    nats_server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    async with asyncio.timeout(1):
        await consumer.stop()


async def test_stopped_consumer_can_be_started_again(bus, eventually):
    seen = Seen()
    consumer = Consumer(bus, "EVIDENCE", "t", seen, filters=ALL)
    for count in (1, 2):
        await consumer.start()
        await fill(bus, 1, first=count)
        await eventually(lambda count=count: len(seen.deliveries) == count)
        await consumer.stop()


async def test_message_of_a_dead_owner_comes_again_after_its_wait(bus, nats_server, eventually):
    await fill(bus, 5)
    dead = await connect(BusSettings(urls=[nats_server.url]))
    first, second = Seen(result=DEFERRED), Seen()
    await Consumer(dead, "EVIDENCE", "t", first, filters=ALL, ack_wait_s=1.0).start()
    await eventually(lambda: len(first.deliveries) == 5)
    await dead.nc.close()
    async with Consumer(bus, "EVIDENCE", "t", second, filters=ALL, ack_wait_s=1.0):
        await eventually(lambda: len(second.deliveries) == 5)
    assert second.sequences == [1, 2, 3, 4, 5]
    assert {delivery.deliveries for delivery in second.deliveries} == {2}


@pytest.mark.alone
async def test_end_of_a_results_life_is_seen_as_a_marker(bus, eventually):
    seen = Seen()
    async with Consumer(bus, "RESULTS", "t", seen, filters=[subjects.RESULTS]):
        await bus.publish_durable(subjects.result("a"), b"good", message_id="r1", ttl_s=1)
        await eventually(lambda: len(seen.deliveries) == 2)
    result, end = seen.deliveries
    assert (result.data, result.marker) == (b"good", "")
    assert (end.subject, end.data, end.marker) == (subjects.result("a"), b"", "MaxAge")
    assert 900 <= end.at - result.at <= 2500
    (stored,) = await last_messages(bus, "RESULTS", [subjects.RESULTS])
    assert (stored.subject, stored.marker) == (subjects.result("a"), "MaxAge")
    await bus.publish_durable(subjects.result("a"), b"again", message_id="r2", ttl_s=60)
    (stored,) = await last_messages(bus, "RESULTS", [subjects.RESULTS])
    assert (stored.data, stored.marker) == (b"again", "")


async def test_nameless_consumer_goes_on_where_it_was_after_a_restart(bus, nats_server, eventually):
    seen = Seen()
    async with Consumer(bus, "EVENTS", "", seen, filters=[subjects.EVENTS], heartbeat_s=0.3) as consumer:
        await bus.publish_durable(subjects.event("failed", "a"), b"1", message_id="1")
        await eventually(lambda: len(seen.deliveries) == 1)
        nats_server.kill()
        nats_server.start()
        await bus.publish_durable(subjects.event("failed", "a"), b"2", message_id="2")
        await eventually(lambda: len(seen.deliveries) == 2)
        assert seen.sequences == [1, 2]
    with pytest.raises(jetstream.ApiError):
        await jetstream.call(bus, f"CONSUMER.INFO.EVENTS.{consumer.name}")


async def test_consumer_of_new_messages_skips_the_old(bus, eventually):
    await bus.publish_durable(subjects.event("failed", "a"), b"old", message_id="1")
    seen = Seen()
    async with Consumer(bus, "EVENTS", "", seen, filters=[subjects.EVENTS], start="new"):
        await bus.publish_durable(subjects.event("failed", "a"), b"new", message_id="2")
        await eventually(lambda: seen.deliveries)
    assert [delivery.data for delivery in seen.deliveries] == [b"new"]


async def test_several_filters_and_the_last_of_each_subject(bus, eventually):
    for i in range(6):
        await bus.publish_durable(
            subjects.event(("failed", "added", "stopped")[i % 3], "a"), str(i).encode(), message_id=str(i)
        )
    seen = Seen()
    filters = [subjects.event("failed", "a"), subjects.event("added", "a")]
    async with Consumer(bus, "EVENTS", "", seen, filters=filters, start="last_per_subject"):
        await eventually(lambda: len(seen.deliveries) == 2)
    assert [delivery.data for delivery in seen.deliveries] == [b"3", b"4"]


async def test_unknown_stream_is_refused(bus):
    with pytest.raises(BusError, match="stream not found"):
        await Consumer(bus, "NONE", "t", Seen(), filters=[">"]).start()


async def test_all_partitions_start_and_stop_on_one_connection(bus, eventually):
    seen = Seen()
    consumers = [
        Consumer(bus, stream, f"p{p}", seen, filters=[f"{prefix}.{p}.*"])
        for stream, prefix in (("EVIDENCE", "att.evidence"), ("COMMANDS", "att.command"))
        for p in range(64)
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*(consumer.start() for consumer in consumers))
    for i in range(200):
        await bus.publish_durable(subjects.evidence(f"a{i}"), b"", message_id=str(i))
    await eventually(lambda: len(seen.deliveries) == 200)
    async with asyncio.timeout(30):
        await asyncio.gather(*(consumer.stop() for consumer in consumers))
