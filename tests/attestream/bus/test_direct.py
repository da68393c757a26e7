"""Messages that are dealt with as they are read: however the stream is cut, each arrives once, in order, and alone."""

import asyncio
import logging

from hypothesis import given
from hypothesis import strategies as st

from attestream.bus.connection import BusSettings, connect
from attestream.bus.direct import DirectParser
from devtools.pool import eventually

DIRECT, QUEUED = 7, 8


class Reader:
    """What a parser hands on to: notes the messages of every subscription in one list."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, bytes]] = []
        self.parser = DirectParser(self)
        self.parser.takers[DIRECT] = lambda subject, data: self.heard.append((DIRECT, subject, data))

    async def _process_msg(self, sid, subject, reply, data, headers) -> None:
        take = self.parser.takers.get(sid)
        if take is None:
            self.heard.append((sid, subject.decode(), data))
        else:
            self.parser.hand(take, subject, data)

    async def _process_ping(self) -> None:
        self.heard.append((0, "ping", b""))


def frame(sid: int, number: int, data: bytes, headers: bytes, reply: bytes) -> bytes:
    subject = b"att.%d" % number
    # Where a message of the server's own has no reply, both spaces are there all the same.
    back = reply and reply.strip() + b" "
    if headers:
        block = b"NATS/1.0\r\nA: " + headers.hex().encode() + b"\r\n\r\n"
        return b"HMSG %s %d %s%d %d\r\n%s%s\r\n" % (subject, sid, back, len(block), len(block) + len(data), block, data)
    return b"MSG %s %d %s%d\r\n%s\r\n" % (subject, sid, back, len(data), data)


MESSAGES = st.tuples(
    st.sampled_from([DIRECT, DIRECT, QUEUED, 0]),
    st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n" * 3000, b"\r\n", b"MSG a 7 2\r\nhi\r\n", b"PING\r\n"])),
    st.binary(max_size=4),
    st.sampled_from([b"", b" ", b"_INBOX.x"]),
)


@given(st.lists(MESSAGES, max_size=12), st.lists(st.integers(1, 80), max_size=12))
def test_each_message_arrives_once_and_in_order_however_it_is_cut(messages, cuts):
    expected, wire = [], b""
    for number, (sid, data, headers, reply) in enumerate(messages):
        wire += frame(sid, number, data, headers, reply) if sid else b"PING\r\n"
        expected.append((sid, f"att.{number}", data) if sid else (0, "ping", b""))

    async def read() -> list[tuple[int, str, bytes]]:
        reader, at = Reader(), 0
        for cut in (*cuts, len(wire)):
            if at < len(wire):
                await reader.parser.parse(wire[at : at + cut])
            at += cut
        return reader.heard

    assert asyncio.run(read()) == expected


def test_a_read_that_ends_within_a_message_leaves_nothing_to_the_library(monkeypatch):
    """Else all that follows it in the next read would take the slow way, and that read end within a message too."""
    reader, slow = Reader(), []

    async def process(*message) -> None:
        slow.append(message)

    monkeypatch.setattr(reader, "_process_msg", process)
    wire = b"".join(frame(DIRECT, number, b"x" * 50, b"h", b"") for number in range(100))

    async def read() -> None:
        for at in range(0, len(wire), 333):
            await reader.parser.parse(wire[at : at + 333])

    asyncio.run(read())
    assert (len(reader.heard), slow) == (100, [])


def test_heartbeats_are_told_apart_from_messages_that_look_like_them():
    reader, beats = Reader(), []
    reader.parser.beats[QUEUED] = beats.append
    block = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 0\r\n\r\n"

    def headed(sid: int, reply: bytes, data: bytes) -> bytes:
        return b"HMSG in.%d %d %s%d %d\r\n%s%s\r\n" % (sid, sid, reply, len(block), len(block + data), block, data)

    wire = headed(QUEUED, b" ", b"") + headed(QUEUED, b"", b"")
    # Whoever writes into a stream chooses headers too; what comes from there has a reply.
    wire += headed(QUEUED, b"$JS.ACK.x ", b"") + headed(QUEUED, b"", b"data") + headed(DIRECT, b"", b"")
    asyncio.run(reader.parser.parse(wire))
    assert beats == ["in.8", "in.8"]
    assert reader.heard == [(QUEUED, "in.8", b""), (QUEUED, "in.8", b"data"), (DIRECT, "in.7", b"")]


async def test_what_is_heard_no_more_is_forgotten(bus):
    subscription = await bus.nc.hear("t.gone", lambda subject, data: None)
    bus.nc.attend(subscription, lambda subject: None)
    await subscription.unsubscribe()
    assert subscription._id not in {*bus.nc._ps.takers, *bus.nc._ps.beats}


def test_the_next_connection_begins_anew():
    reader = Reader()

    async def read() -> None:
        await reader.parser.parse(frame(DIRECT, 1, b"whole", b"", b"") + b"MSG att.2 7 5\r\nlos")
        reader.parser.reset()
        await reader.parser.parse(frame(DIRECT, 3, b"again", b"", b""))

    asyncio.run(read())
    assert [data for _, _, data in reader.heard] == [b"whole", b"again"]


async def test_over_a_real_bus_beside_ordinary_subscriptions(nats_server, bus, caplog):
    receiver = await connect(BusSettings(urls=[nats_server.url], name="receiver"))
    heard, queued = [], []

    def take(subject, data):
        heard.append((subject, data))
        if data == b"3":
            raise ValueError("one bad message")

    async def keep(message):
        queued.append(message.data)

    await receiver.nc.hear("t.direct.*", take)
    await receiver.subscribe("t.queued", keep)
    await receiver.nc.flush()
    with caplog.at_level(logging.ERROR):
        for number in range(200):
            await bus.nc.publish(f"t.direct.{number}", b"%d" % number, headers={"A": "b"} if number % 3 else None)
            await bus.nc.publish("t.queued", b"%d" % number)
        await eventually(lambda: len(heard) == len(queued) == 200)
    assert heard == [(f"t.direct.{number}", b"%d" % number) for number in range(200)]
    assert [record.message for record in caplog.records] == ["a subscription's callback failed"]
    # Nobody listens: the server says so with headers alone.
    await receiver.nc.publish("t.nobody", b"x", reply="t.direct.none")
    await eventually(lambda: heard[-1] == ("t.direct.none", b""))
    await receiver.close()


async def test_many_are_published_at_once_and_survive_a_reconnect(nats_server, bus):
    receiver = await connect(BusSettings(urls=[nats_server.url], name="receiver", reconnect_spread_s=0.1))
    heard = []
    await receiver.nc.hear("t.many.*", lambda subject, data: heard.append((subject, data)))
    await receiver.nc.flush()
    for life in range(2):
        await eventually(lambda life=life: bus.reconnects == receiver.reconnects == life, 30)
        heard.clear()
        messages = [(f"t.many.{number}", f"t.back.{number}", bytes(number)) for number in range(50)]
        await receiver.nc.flush()
        await bus.nc.publish_all(messages)
        await eventually(lambda: len(heard) == 50)
        assert heard == [(subject, data) for subject, _, data in messages]
        if life == 0:
            nats_server.kill()
            nats_server.start()
    await receiver.close()
