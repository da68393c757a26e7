"""Alarms come before a stream, the account or the disk refuses anything, once for each mark."""

import pytest

from attestream.bus import jetstream, stored
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.config import LimitsConfig
from attestream.embedded.nats import NatsServer
from schemas import subjects, topology
from schemas.base import decode
from schemas.events import Event, EventKind
from services.notifier.capacity import Fill, Watch

MIB = 1 << 20
NOW = 1_800_000_000_000


async def alarms(bus):
    request = {"seq": 1, "batch": 100, "next_by_subj": subjects.events_of_kind(EventKind.CAPACITY)}
    found = (await stored.get_batch(bus, topology.EVENTS.name, request)).messages
    return [(event.agent_id, event.findings[0].code) for event in (decode(one.data, Event) for one in found)]


async def fill(bus, count, start=0):
    for number in range(start, start + count):
        await bus.publish_durable(subjects.command("a"), bytes(100_000), message_id=f"{number}")


async def test_a_stream_that_fills_raises_one_alarm_at_each_mark(bus):
    await ensure_topology(bus, sizes={"COMMANDS": MIB})
    watch = Watch(bus, LimitsConfig(), lambda: NOW)
    await watch.look()
    assert await alarms(bus) == []
    await fill(bus, 9)
    await watch.look()
    fills = await watch.look()
    assert next(one for one in fills if one.place == "COMMANDS").ratio == pytest.approx(0.86, abs=0.01)
    assert await alarms(bus) == [("COMMANDS", "capacity.high")]
    await fill(bus, 1, 9)
    await watch.look()
    assert await alarms(bus) == [("COMMANDS", "capacity.high"), ("COMMANDS", "capacity.critical")]


async def test_an_alarm_about_the_edge_does_not_flutter(bus):
    now = NOW
    watch = Watch(bus, LimitsConfig(), lambda: now)
    for used in (81, 79, 81, 76, 82):
        now += 60_000
        await watch._judge(Fill("EVENTS", used, 100))
    assert await alarms(bus) == [("EVENTS", "capacity.high")]
    for used in (74, 81):
        now += 60_000
        await watch._judge(Fill("EVENTS", used, 100))
    assert await alarms(bus) == [("EVENTS", "capacity.high")] * 2


async def test_replicas_put_an_alarm_on_the_record_once(bus):
    for _ in range(3):
        await Watch(bus, LimitsConfig(), lambda: NOW)._judge(Fill("EVENTS", 99, 100))
    assert await alarms(bus) == [("EVENTS", "capacity.critical")]


async def test_the_disk_and_the_account_are_watched(tmp_path):
    extra = "accounts { A { jetstream { max_file: 1MB }, users: [{user: u, password: p}] } }"
    server = NatsServer(tmp_path / "nats", extra=extra)
    server.start()
    try:
        bus = await connect(BusSettings(urls=[server.url.replace("//", "//u:p@")]))
        await ensure_topology(bus, sizes={stream.name: 100_000 for stream in topology.STREAMS})
        fills = {one.place: one for one in await Watch(bus, LimitsConfig(store_dir=tmp_path), lambda: NOW).look()}
        assert 0 < fills["disk"].ratio < 1
        assert fills["account"].limit == 1_000_000 or fills["account"].limit == MIB
        assert set(fills) >= {"EVIDENCE", "COMMANDS", "EVENTS", "REVOCATIONS"}
        await bus.close()
    finally:
        server.kill()


async def test_the_disks_of_databases_are_watched_once_each(bus, tmp_path, caplog):
    registrar, verifier = tmp_path / "registrar.db", tmp_path / "verifier.db"
    databases = {"registrar": registrar, "verifier": verifier}
    watch = Watch(bus, LimitsConfig(alarm_ratio=1e-9), lambda: NOW, databases=databases)
    # Not there yet, or not here.
    assert watch._look_at_disks() == []
    assert caplog.text == ""
    registrar.write_bytes(b"")
    verifier.write_bytes(b"")
    (fill,) = watch._look_at_disks()
    assert fill.place == "disk-registrar"
    assert 0 < fill.ratio < 1
    await ensure_topology(bus)
    await watch.look()
    assert ("disk-registrar", "capacity.high") in await alarms(bus)
    # The bus's disk bears its own name.
    both = Watch(bus, LimitsConfig(store_dir=tmp_path), lambda: NOW, databases=databases)
    assert [one.place for one in both._look_at_disks()] == ["disk"]


async def test_a_record_that_is_full_does_not_swallow_the_alarm(bus, caplog):
    await ensure_topology(bus, sizes={"EVENTS": MIB})
    await jetstream.call(bus, "STREAM.INFO.EVENTS")
    with caplog.at_level("ERROR"):
        await Watch(bus, LimitsConfig(), lambda: NOW)._judge(Fill("EVENTS", 96, 100))
    assert "EVENTS is 96 % full" in caplog.text
