import asyncio

import pytest

from attestream.bus import jetstream
from attestream.bus.topology import ensure_topology
from attestream.database import migrate, open_engine, transaction
from attestream.errors import BusError
from schemas import topology
from schemas.events import Event, EventKind
from services.registrar import outbox
from services.registrar.outbox import BATCH, Publisher
from services.registrar.tables import MIGRATIONS


@pytest.fixture
async def engine(database_url):
    engine = open_engine(database_url)
    await migrate(engine, MIGRATIONS)
    yield engine
    await engine.dispose()


@pytest.fixture
def write(engine):
    async def run(*numbers: int) -> None:
        async with transaction(engine) as connection:
            for number in numbers:
                event = Event(id=f"e{number}", kind=EventKind.ENROLLED, agent_id="a", at=number, enrolment=number)
                await outbox.add(connection, event)

    return run


async def test_events_are_published_in_order_and_once(bus, engine, write, events):
    numbers = list(range(BATCH + 10))
    await write(*numbers)
    publisher = Publisher(engine, bus)
    assert await publisher.drain() == len(numbers)
    assert await publisher.drain() == 0
    assert [event.enrolment for event in await events("a")] == numbers


async def test_event_that_the_stream_did_not_confirm_stays(bus, engine, write, events):
    await write(1, 2)
    await jetstream.call(bus, f"STREAM.DELETE.{topology.EVENTS.name}")
    publisher = Publisher(engine, bus, publish_timeout_s=0.2)
    with pytest.raises(BusError):
        await publisher.drain()
    await ensure_topology(bus)
    assert await publisher.drain() == 2
    assert [event.id for event in await events("a")] == ["e1", "e2"]


async def test_two_replicas_at_once_leave_each_event_once(bus, engine, write, events):
    await write(*range(30))
    await asyncio.gather(Publisher(engine, bus).drain(), Publisher(engine, bus).drain())
    assert [event.enrolment for event in await events("a")] == list(range(30))


async def test_rolled_back_enrolment_leaves_no_event(bus, engine, write, events):
    async def fail() -> None:
        async with transaction(engine) as connection:
            await outbox.add(connection, Event(id="e", kind=EventKind.ENROLLED, agent_id="a", at=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await Publisher(engine, bus).drain() == 0


async def test_publisher_goes_on_after_failures(bus, engine, write, events):
    await jetstream.call(bus, f"STREAM.DELETE.{topology.EVENTS.name}")
    await write(1)
    publisher = Publisher(engine, bus, publish_timeout_s=0.1)
    running = asyncio.create_task(publisher.run())
    await asyncio.sleep(0)
    await ensure_topology(bus)
    async with asyncio.timeout(30):
        while not await events("a"):
            await asyncio.sleep(0.01)
        await write(2)
        publisher.wake()
        while len(await events("a")) < 2:
            await asyncio.sleep(0.01)
    running.cancel()
