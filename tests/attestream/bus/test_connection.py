from __future__ import annotations

import asyncio
import os
import signal
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from attestream.bus.connection import BusSettings, connect
from attestream.bus.transport import reconnect_handler
from attestream.embedded.nats import NatsServer
from attestream.errors import (
    AttestreamError,
    BusError,
    MalformedError,
    RefusedError,
    StorageError,
    TimedOutError,
    TooLargeError,
    UnknownAgentError,
)
from schemas.base import Message
from schemas.enrolment import AgentQuery, Done, Refused


def settings(server: NatsServer, **changes) -> BusSettings:
    return BusSettings(**({"urls": [server.url], "reconnect_spread_s": 0.1} | changes))


@pytest.mark.alone
async def test_unreachable_bus_is_one_clear_error_in_time():
    started = asyncio.get_running_loop().time()
    with pytest.raises(BusError, match=r"127\.0\.0\.1:1 can not be reached"):
        await connect(BusSettings(urls=["nats://127.0.0.1:1"], connect_timeout_s=0.5))
    assert asyncio.get_running_loop().time() - started < 3


async def test_connection_closed_in_the_handshake_is_no_connection():
    """nats.py PR #975: connect() returns a client that never was connected."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n')
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BusError):
        await connect(BusSettings(urls=[f"nats://127.0.0.1:{port}"], connect_timeout_s=0.5))
    server.close()


async def test_request_and_reply(bus):
    async def answer(query: AgentQuery) -> Message:
        assert query.agent_id == "a"
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    assert await bus.request("t.ask", AgentQuery(agent_id="a"), Done) == Done()


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (UnknownAgentError("no agent a"), UnknownAgentError),
        (StorageError("the database is away"), StorageError),
        (MalformedError("a bad quote"), MalformedError),
        (RefusedError("not now"), RefusedError),
    ],
)
async def test_our_errors_cross_the_bus_as_they_are(bus, raised, seen):
    async def refuse(_: AgentQuery) -> Message:
        raise raised

    await bus.serve("t.refuse", "q", AgentQuery, refuse)
    with pytest.raises(seen) as caught:
        await bus.request("t.refuse", AgentQuery(agent_id="a"), Done)
    assert type(caught.value) is seen
    assert (caught.value.message, caught.value.hint) == (raised.message, raised.hint)


async def test_text_of_an_unexpected_error_stays_inside(bus, caplog):
    async def fail(_: AgentQuery) -> Message:
        raise ValueError("password=hunter2")

    await bus.serve("t.fail", "q", AgentQuery, fail)
    reply = await bus.replies.ask("t.fail", b"\x81\xa1t\xa0", None, 2)
    assert b"hunter2" not in reply.data
    with pytest.raises(AttestreamError) as caught:
        await bus.request("t.fail", AgentQuery(agent_id="a"), Done)
    assert caught.value.code == "internal"
    assert "hunter2" not in str(caught.value)
    assert "hunter2" in caplog.text


async def test_request_that_can_not_be_decoded_is_refused_as_malformed(bus):
    async def answer(_: AgentQuery) -> Message:
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    with pytest.raises(MalformedError):
        await bus.request("t.ask", Done(), Done)


async def test_answer_of_another_kind_is_malformed(bus):
    async def answer(_: AgentQuery) -> Message:
        return AgentQuery(agent_id="b")

    await bus.serve("t.ask", "q", AgentQuery, answer)
    with pytest.raises(MalformedError):
        await bus.request("t.ask", AgentQuery(agent_id="a"), Done)


async def test_refusal_of_an_unknown_code_is_a_refusal(bus):
    async def answer(_: AgentQuery) -> Message:
        return Refused(code="from-the-future", message="no", remedy="upgrade")

    await bus.serve("t.ask", "q", AgentQuery, answer)
    with pytest.raises(RefusedError, match="from-the-future") as caught:
        await bus.request("t.ask", AgentQuery(agent_id="a"), Done)
    assert caught.value.hint == "upgrade"


async def test_nobody_there_and_nobody_answering(bus):
    with pytest.raises(TimedOutError, match="nobody"):
        await bus.request("t.nobody", AgentQuery(agent_id="a"), Done)

    async def silent(_) -> None:
        return

    await bus.subscribe("t.silent", silent)
    with pytest.raises(TimedOutError, match="within"):
        await bus.request("t.silent", AgentQuery(agent_id="a"), Done, timeout_s=0.1)


async def test_handlers_run_side_by_side_up_to_the_bound(bus, eventually):
    running = most = 0
    go = asyncio.Event()

    async def answer(_: AgentQuery) -> Message:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return Done()

    await bus.serve("t.slow", "q", AgentQuery, answer, concurrency=4)
    asked = [asyncio.create_task(bus.request("t.slow", AgentQuery(agent_id="a"), Done)) for _ in range(10)]
    await eventually(lambda: running == 4)
    go.set()
    assert await asyncio.gather(*asked) == [Done()] * 10
    assert most == 4


async def test_message_over_the_servers_limit_is_too_large(bus):
    with pytest.raises(TooLargeError):
        await bus.publish("t.big", Refused(code="x", message="x" * 1_100_000))
    with pytest.raises(TooLargeError):
        await bus.publish_durable("att.event.failed.a", b"x" * 1_100_000, message_id="big")


async def test_connection_comes_back_and_serves_again(bus, nats_server, eventually):
    back = asyncio.Event()

    async def noted() -> None:
        back.set()

    async def answer(_: AgentQuery) -> Message:
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    bus.on_reconnect(noted)
    nats_server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    nats_server.start()
    await asyncio.wait_for(back.wait(), 30)
    assert await bus.request("t.ask", AgentQuery(agent_id="a"), Done) == Done()
    assert bus.reconnects == 1


@pytest.mark.alone
async def test_closing_does_not_wait_for_a_bus_that_is_gone(bus, nats_server, eventually):
    async def answer(_: AgentQuery) -> Message:
        return Done()

    for i in range(5):
        await bus.serve(f"t.ask{i}", "q", AgentQuery, answer)
    nats_server.kill()
    await eventually(lambda: not bus.nc.is_connected)
    async with asyncio.timeout(2):
        await bus.close()


async def test_callbacks_can_be_withdrawn(bus, nats_server, eventually):
    calls = []

    async def noted() -> None:
        calls.append(1)

    bus.on_reconnect(noted)()
    nats_server.kill()
    nats_server.start()
    await eventually(lambda: bus.reconnects == 1)
    await bus.nc.flush()
    assert not calls


async def test_dropped_core_messages_are_counted(bus, eventually):
    go = asyncio.Event()

    async def slow(_) -> None:
        await go.wait()

    await bus.nc.subscribe("t.flood", cb=slow, pending_msgs_limit=10)
    for _ in range(100):
        await bus.publish("t.flood", Done())
    await bus.nc.flush()
    await eventually(lambda: bus.dropped >= 89)
    go.set()


async def test_failing_callback_does_not_end_its_subscription(bus, eventually, caplog):
    seen = []

    async def fail_once(message) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ValueError("first")

    await bus.subscribe("t.sub", fail_once)
    await bus.publish("t.sub", Done())
    await bus.publish("t.sub", Done())
    await eventually(lambda: len(seen) == 2)
    assert "callback failed" in caplog.text


async def test_connection_closed_by_the_server_for_good_is_surfaced(tmp_path, eventually):
    """nats.py #1019: a revoked identity closes the client for ever, without a word."""
    users = 'authorization {{ users: [{{ user: "a", password: "{}" }}] }}'
    server = NatsServer(tmp_path, extra=users.format("first"))
    server.start()
    try:
        bus = await connect(settings(server, urls=[server.url.replace("//", "//a:first@")]))
        closed = asyncio.Event()

        async def noted() -> None:
            closed.set()

        bus.on_closed(noted)
        config = server.store_dir / "nats.conf"
        config.write_text(config.read_text().replace("first", "second"))
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.wait_for(closed.wait(), 30)
        with pytest.raises(BusError):
            await bus.publish("t.x", Done())
        with pytest.raises(BusError):
            await bus.publish_durable("att.event.failed.a", Done(), message_id="1")
        await bus.close()
    finally:
        server.stop()


def test_fleet_does_not_come_back_in_one_instant():
    choose = reconnect_handler(10.0)
    pool = [Server(uri=urlparse(f"nats://h{i}:4222"), reconnects=i) for i in range(3)]
    picked = [choose(pool, {}) for _ in range(200)]
    assert {server.uri.hostname for server, _ in picked} == {"h0"}
    delays = sorted(delay for _, delay in picked)
    assert 0 < delays[0] < 1
    assert 9 < delays[-1] <= 10
    equal = [Server(uri=urlparse(f"nats://h{i}:4222"), reconnects=7) for i in range(3)]
    assert {choose(equal, {})[0].uri.hostname for _ in range(100)} == {"h0", "h1", "h2"}
    avoid = reconnect_handler(10.0, lambda: "h1:4222")
    assert {avoid(equal, {})[0].uri.hostname for _ in range(100)} == {"h0", "h2"}
    assert avoid(equal[1:2], {})[0].uri.hostname == "h1"
    assert max(choose(equal, {})[1] for _ in range(200)) <= 40
