"""How reads are paced: gathered while messages come thick, at once while they come one by one."""

import asyncio
import time

from attestream.bus.connection import BusSettings, connect
from attestream.bus.transport import GATHER_S, Pace
from schemas.enrolment import AgentQuery, Done

ONE = b"MSG a 1 2\r\nhi\r\n"


def waits(pace: Pace, reads: int, brought: bytes) -> int:
    waited = 0
    for _ in range(reads):
        if pace.gather():
            waited += 1
            pace.gathered(brought)
    return waited


def test_gathering_goes_on_while_it_brings_several():
    pace = Pace()
    waits(pace, 100, 3 * ONE)
    assert waits(pace, 100, 3 * ONE) == 100


def test_gathering_that_brings_one_is_soon_given_up():
    assert waits(Pace(), 170, ONE) == 10
    assert waits(Pace(), 170, b"PONG\r\n") == 10


def test_gathering_starts_and_ends_with_the_load():
    pace = Pace()
    waits(pace, 100, 3 * ONE)
    assert waits(pace, 17, ONE) == 1


async def test_nothing_is_lost_and_fewer_reads_are_made_under_load(nats_server, bus):
    """Every message to an inbox under load arrives, in order, though most reads bring several."""
    receiver = await connect(BusSettings(urls=[nats_server.url], name="receiver"))
    heard: list[int] = []
    reads = 0
    transport = receiver.nc._transport
    read = transport.read

    async def counted(size: int) -> bytes:
        nonlocal reads
        reads += 1
        return await read(size)

    transport.read = counted
    done = asyncio.Event()

    async def take(message) -> None:
        heard.append(int(message.data))
        if len(heard) == 2000:
            done.set()

    await receiver.subscribe("load", take)
    await receiver.nc.flush()
    for number in range(2000):
        await bus.nc.publish("load", b"%d" % number)
        # Each goes out by itself, some three thousand a second.
        await asyncio.sleep(0.0002)
    await asyncio.wait_for(done.wait(), 10)
    assert heard == list(range(2000))
    assert reads < 1000
    await receiver.close()


async def test_questions_one_by_one_hardly_wait(nats_server, bus):
    async def answer(query: AgentQuery) -> Done:
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    asker = await connect(BusSettings(urls=[nats_server.url], name="asker"))
    started = time.monotonic()
    for _ in range(200):
        await asker.request("t.ask", AgentQuery(agent_id="a"), Done)
    # Both ends would wait each time: 200 x 2 x 2 ms.
    assert time.monotonic() - started < 200 * GATHER_S
    await asker.close()
