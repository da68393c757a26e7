"""How reads are paced: gathered while messages come thick, at once while they come one by one."""

import asyncio
import contextlib
import os
import signal
import socket
import time

import nats.errors
import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.transport import UNACKNOWLEDGED_S, Pace
from attestream.errors import TimedOutError
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


async def test_nothing_is_lost_while_reads_wait(nats_server, bus):
    """Every message that comes while reading is paused arrives, in order, also in more bytes than one read takes."""
    receiver = await connect(BusSettings(urls=[nats_server.url], name="receiver"))
    heard: list[int] = []
    done = asyncio.Event()

    async def take(message) -> None:
        heard.append(int(message.data[:6]))
        if len(heard) == 3000:
            done.set()

    await receiver.subscribe("load", take)
    await receiver.nc.flush()
    for number in range(3000):
        await bus.nc.publish("load", b"%06d" % number + bytes(number))
        await asyncio.sleep(0)
    await asyncio.wait_for(done.wait(), 60)
    assert heard == list(range(3000))
    await receiver.close()


@pytest.mark.alone
async def test_questions_one_by_one_hardly_wait(nats_server, bus):
    async def answer(query: AgentQuery) -> Done:
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    asker = await connect(BusSettings(urls=[nats_server.url], name="asker"))
    started = time.monotonic()
    for _ in range(200):
        await asker.request("t.ask", AgentQuery(agent_id="a"), Done)
    # Both ends would wait each time.
    assert time.monotonic() - started < 200 * asker.settings.gather_s
    await asker.close()


async def test_who_asks_on_a_busy_connection_does_not_wait_until_enough_has_gathered(nats_server, bus, eventually):
    async def answer(query: AgentQuery) -> Done:
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    asker = await connect(BusSettings(urls=[nats_server.url], name="asker", gather_s=2.0))
    heard = 0

    def count(_subject, _data):
        nonlocal heard
        heard += 1

    async def flood():
        while True:
            await bus.nc.publish("t.load", b"x")
            await asyncio.sleep(0.001)

    await asker.nc.hear("t.load", count)
    await asker.nc.flush()
    flooding = asyncio.create_task(flood())
    try:
        await eventually(lambda: asker.nc._transport._enough is not None)
        started = time.monotonic()
        for _ in range(10):
            await asker.request("t.ask", AgentQuery(agent_id="a"), Done)
        assert time.monotonic() - started < 10
        with pytest.raises(TimedOutError):
            await asker.request("t.nobody", AgentQuery(agent_id="a"), Done)
        before = heard
        # And then all goes on as before: what comes within two seconds is read at once.
        await eventually(lambda: asker.nc._transport._asked == 0 and heard > before + 100)
    finally:
        flooding.cancel()
        await asker.close()


async def test_an_answer_that_nobody_waits_for_any_more_does_not_end_the_reading(bus, nats_server):
    """The answers to pings that were given up come when a host that was cut off is there again."""
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(nats.errors.TimeoutError):
            await bus.nc.flush(timeout=0.05)
        waiting = asyncio.create_task(bus.nc.flush(10))
        await asyncio.sleep(0)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    await waiting
    await bus.nc.flush(10)
    assert bus.reconnects == 0


async def test_reading_that_fails_unexpectedly_is_a_lost_connection(bus, eventually, monkeypatch):
    def fail(_data):
        monkeypatch.undo()
        raise RuntimeError

    monkeypatch.setattr(bus.nc._ps, "parse", fail)
    await bus.nc.publish("any", b"")
    with contextlib.suppress(nats.errors.Error):
        await bus.nc.flush(1)
    await eventually(lambda: bus.reconnects == 1)
    await bus.nc.flush(10)


async def test_a_host_that_acknowledges_nothing_is_left_in_seconds(bus):
    option = bus.nc._transport._io_writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert option == 1000 * UNACKNOWLEDGED_S
