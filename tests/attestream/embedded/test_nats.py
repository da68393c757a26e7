from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.embedded.nats import NatsServer
from attestream.errors import BusError


async def test_server_keeps_port_and_streams_across_stop_and_kill(tmp_path):
    server = NatsServer(tmp_path / "bus")
    for end in (server.stop, server.kill, server.stop):
        server.start()
        url = server.url
        bus = await connect(BusSettings(urls=[url]))
        await ensure_topology(bus)
        await bus.publish_durable("att.event.failed.a", b"x", message_id=end.__name__)
        await bus.close()
        end()
        assert server.pid is None
    server.start()
    bus = await connect(BusSettings(urls=[url]))
    ack = await bus.publish_durable("att.event.failed.a", b"x", message_id="last")
    assert ack.sequence == 3, "stop was used twice within the window of its message id"
    await bus.close()
    server.stop()


def test_start_and_stop_can_be_repeated(tmp_path):
    server = NatsServer(tmp_path)
    server.stop()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("mine", "used"), [(None, "50"), ("100", "100")])
def test_garbage_is_collected_early_unless_the_environment_says_otherwise(tmp_path, monkeypatch, mine, used):
    monkeypatch.delenv("GOGC", raising=False)
    if mine is not None:
        monkeypatch.setenv("GOGC", mine)
    server = NatsServer(tmp_path / "bus")
    server.start()
    try:
        assert f"GOGC={used}".encode() in Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    finally:
        server.kill()


def test_store_is_for_its_owner_alone(tmp_path):
    server = NatsServer(tmp_path / "bus")
    server.start()
    server.stop()
    assert stat.S_IMODE((tmp_path / "bus").stat().st_mode) == 0o700


def test_taken_port_is_one_clear_error(tmp_path):
    first = NatsServer(tmp_path / "1")
    first.start()
    second = NatsServer(tmp_path / "2", port=first.port)
    with pytest.raises(BusError, match=f"did not start on 127.0.0.1:{first.port}") as caught:
        second.start()
    assert "address already in use" in caught.value.hint
    assert second.pid is None
    first.stop()
