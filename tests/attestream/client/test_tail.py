from __future__ import annotations

import asyncio
import time

import pytest

from attestream.bus.stored import last_sequence
from attestream.client.subscription import Source, Subscription
from attestream.client.tail import POLL_S
from attestream.errors import ConfigError
from devtools.pool import eventually
from devtools.sample_result import sample_result
from schemas import subjects
from schemas.events import Event, EventKind, Standing

NEVER_S = 40.0


def event(number: int, kind: EventKind = EventKind.TRUSTED, agent_id: str = "a") -> Event:
    return Event(id=f"{number}", agent_id=agent_id, kind=kind, at=number, standing=Standing.TRUSTED, event_number=number)


async def record(bus, *numbers: int, kind: EventKind = EventKind.TRUSTED, agent_id: str = "a") -> None:
    for number in numbers:
        what = event(number, kind, agent_id)
        await bus.publish_durable(subjects.event(kind, agent_id), what, message_id=f"{kind}{agent_id}{number}")


async def numbers(subscription, count: int, *, ack: bool = False) -> list[int]:
    found = []
    async with asyncio.timeout(NEVER_S):
        async for item in subscription:
            found.append(item.event.event_number)
            if ack:
                await item.ack()
            if len(found) == count:
                break
    return found


async def test_what_is_stored_comes_first_and_then_what_is_new(bus, guest):
    await record(bus, 1, 2, 3)
    events = guest.events(from_start=True)
    assert await numbers(events, 3) == [1, 2, 3]
    await record(bus, 4, 5)
    assert await numbers(events, 2) == [4, 5]


async def test_without_a_start_only_what_is_new_comes(bus, guest):
    await record(bus, 1, 2)
    events = guest.events()
    await events.start()
    await record(bus, 3)
    assert await numbers(events, 1) == [3]


async def test_moment_in_the_past_begins_there(bus, guest):
    await record(bus, 1)
    await asyncio.sleep(0.05)  # the server's clock has to move on
    since = int(time.time() * 1000)
    await record(bus, 2, 3)
    assert await numbers(guest.events(since=since), 2) == [2, 3]


async def test_kinds_and_agents_are_told_apart(bus, guest):
    await record(bus, 1)
    await record(bus, 2, kind=EventKind.FAILED)
    await record(bus, 3, kind=EventKind.FAILED, agent_id="b")
    await record(bus, 4, kind=EventKind.STOPPED)
    assert await numbers(guest.events(kinds=[EventKind.FAILED, EventKind.STOPPED], from_start=True), 3) == [2, 3, 4]
    assert await numbers(guest.events(agent_id="b", from_start=True), 1) == [3]


async def test_more_than_a_window_comes_in_order(bus, guest):
    await record(bus, *range(300))
    assert await numbers(guest.events(from_start=True), 300) == list(range(300))


async def test_place_is_kept_behind_what_was_acknowledged(bus, guest):
    await record(bus, 1, 2, 3, 4)
    events = guest.events("siem")
    assert await numbers(events, 2, ack=True) == [1, 2]
    assert await numbers(events, 1) == [3]
    await events.stop()
    again = guest.events("siem")
    assert await numbers(again, 2, ack=True) == [3, 4]
    await again.stop()
    await record(bus, 5)
    assert await numbers(guest.events("siem"), 1) == [5]


async def test_message_that_was_given_back_comes_again(bus, guest):
    await record(bus, 1, 2)
    events = guest.events("siem")
    async with asyncio.timeout(NEVER_S):
        first = await anext(events)
        await first.retry(0.01)
        second = await anext(events)
        await second.ack()
        third = await anext(events)
    assert (first.event.event_number, second.event.event_number, third.event.event_number) == (1, 2, 1)
    assert (first.sequence, third.deliveries) == (third.sequence, 2)


async def test_one_process_has_a_place_at_a_time(bus, guest):
    events = guest.events("siem")
    await events.start()
    with pytest.raises(ConfigError, match="another process"):
        await guest.events("siem").start()
    await events.stop()
    await guest.events("siem").start()


async def test_damaged_place_is_not_taken_for_the_beginning(bus, guest):
    guest.places.mkdir()
    (guest.places / "EVENTS.siem").write_text("here")
    with pytest.raises(ConfigError, match="no place"):
        await guest.events("siem").start()


async def test_stream_that_has_begun_anew_is_read_from_its_beginning(bus, guest):
    guest.places.mkdir()
    (guest.places / "EVENTS.siem").write_text("1000\n")
    await record(bus, 1)
    assert await numbers(guest.events("siem"), 1) == [1]


async def test_result_and_its_lapse_are_seen(bus, guest):
    """The server does not announce the end of a result's life to those who listen: it has to be looked for."""
    results = guest.results()
    await results.start()
    await bus.publish_durable(subjects.result("a"), sample_result(), message_id="r", ttl_s=1)
    async with asyncio.timeout(NEVER_S):
        assert (await anext(results)).standing is Standing.TRUSTED
        assert (await anext(results)).standing is Standing.UNKNOWN


async def test_message_that_can_not_be_read_is_passed_over(bus, guest):
    rejected = []
    events = guest.events("siem", on_rejected=rejected.append)
    await bus.publish_durable(subjects.event("trusted", "a"), b"?", message_id="junk")
    await record(bus, 1)
    assert await numbers(events, 1, ack=True) == [1]
    assert [item.sequence for item in rejected] == [1]
    await eventually(lambda: (guest.places / "EVENTS.siem").read_text() == "2\n")


async def test_reader_goes_on_when_the_server_was_away(server, bus, guest):
    events = guest.events("siem")
    await record(bus, 1)
    assert await numbers(events, 1, ack=True) == [1]
    server.kill()
    server.start()
    await record(bus, 2)
    assert await numbers(events, 1, ack=True) == [2]


@pytest.mark.alone
async def test_revocation_is_heard_long_before_the_next_look(bus, guest):
    source = Source(stream="REVOCATIONS", filters=[subjects.REVOCATIONS], live=[subjects.REVOKED])
    heard = Subscription(guest.bus, source, _plain)
    await heard.start()
    took = []
    for number in range(5):
        began = time.monotonic()
        await bus.publish_durable(subjects.revocation("a"), b"revoked", message_id=f"{number}")
        async with asyncio.timeout(NEVER_S):
            await anext(heard)
        took.append(time.monotonic() - began)
    assert min(took) < POLL_S / 2
    await heard.stop()
    assert await last_sequence(bus, "REVOCATIONS") == 5


async def _plain(delivery):
    return _Plain(delivery)


class _Plain:
    """A delivery that is not read."""

    def __init__(self, delivery):
        self.sequence = delivery.sequence
        self.settle = delivery.ack
        self.retry = delivery.retry
