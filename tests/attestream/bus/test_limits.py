"""What full streams and a full disk refuse, and that nothing is lost that was acknowledged."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from attestream.bus import jetstream
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.config import LimitsConfig
from attestream.embedded.nats import NatsServer
from attestream.errors import BusError, ConfigError
from schemas import subjects, topology
from schemas.attestation import MAX_PARTS

SMALL = {"EVIDENCE": 1 << 20, "COMMANDS": 1 << 20, "EVENTS": 1 << 20, "REVOCATIONS": 1 << 20, "DEAD": 1 << 20}
TARGETS = {
    "EVIDENCE": subjects.evidence("a"),
    "COMMANDS": subjects.command("a"),
    "EVENTS": subjects.event("failed", "a"),
    "REVOCATIONS": subjects.revocation("a"),
}
ACCOUNT = "accounts { A { jetstream { max_file: 1950MB }, users: [{user: u, password: p}] } }"


async def state(bus, stream):
    return (await jetstream.call(bus, f"STREAM.INFO.{stream}"))["state"]


async def fill(bus, subject, size=100_000, most=1000):
    """Store messages until one is refused; return how many were taken."""
    for number in range(most):
        try:
            await bus.publish_durable(subject, bytes(size), message_id=f"fill-{number}", timeout_s=2)
        except BusError:
            return number
    raise AssertionError("it takes everything")


def test_the_declared_sizes_are_those_of_the_configuration():
    declared = {stream.name: stream.max_bytes for stream in topology.STREAMS if stream.max_bytes}
    assert LimitsConfig().sizes() == declared
    assert sum(declared.values()) < 8 << 30


@pytest.mark.parametrize("stream", TARGETS)
async def test_a_full_stream_refuses_what_is_new_and_keeps_what_it_has(bus, stream):
    await ensure_topology(bus, sizes=SMALL)
    taken = await fill(bus, TARGETS[stream])
    found = await state(bus, stream)
    assert (found["messages"], found["first_seq"]) == (taken, 1)
    assert 0 < found["bytes"] <= SMALL[stream]


async def test_dead_letters_make_room_for_newer_ones(bus):
    await ensure_topology(bus, sizes=SMALL)
    for number in range(20):
        await bus.publish_durable(subjects.dead("EVIDENCE"), bytes(100_000), message_id=f"d{number}")
    found = await state(bus, "DEAD")
    assert found["last_seq"] == 20
    assert found["first_seq"] > 1


async def test_one_agent_can_not_crowd_out_another(bus):
    name = topology.EVIDENCE.name
    assert topology.EVIDENCE_PER_AGENT > MAX_PARTS + 1
    taken = await fill(bus, subjects.evidence("hostile"), size=10)
    assert taken == topology.EVIDENCE_PER_AGENT
    await bus.publish_durable(subjects.evidence("honest"), b"x", message_id="honest")
    # Once something was taken out, there is room again.
    await jetstream.call(bus, f"STREAM.PURGE.{name}", {"filter": "att.evidence.*.hostile", "keep": 10})
    await bus.publish_durable(subjects.evidence("hostile"), b"x", message_id="more")


async def test_a_message_larger_than_any_evidence_is_refused_at_once(bus):
    with pytest.raises(BusError, match="maximum"):
        await bus.publish_durable(subjects.evidence("a"), bytes(topology.EVIDENCE_MESSAGE_BYTES + 1), message_id="1")


async def test_streams_for_which_there_is_no_room_are_a_clear_error(tmp_path):
    server = NatsServer(tmp_path / "nats", extra=ACCOUNT)
    server.start()
    try:
        bus = await connect(BusSettings(urls=[server.url.replace("//", "//u:p@")]))
        with pytest.raises(ConfigError, match="no room") as failure:
            await ensure_topology(bus)
        assert "[limits]" in failure.value.hint
        await ensure_topology(bus, sizes=SMALL)
        await bus.close()
    finally:
        server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
async def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    server = NatsServer(disk / "nats")
    try:
        server.start()
        bus = await connect(BusSettings(urls=[server.url], reconnect_spread_s=0.1))
        await ensure_topology(bus)
        taken = await fill(bus, subjects.evidence("a"), size=50_000)
        assert (await state(bus, "EVIDENCE"))["messages"] == taken > 10
        with pytest.raises(BusError):
            await bus.publish_durable(subjects.event("failed", "a"), bytes(50_000), message_id="e", timeout_s=0.5)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        server.kill()
        server.start()
        async with asyncio.timeout(60):
            await bus.publish_durable(subjects.event("failed", "a"), bytes(50_000), message_id="e", timeout_s=30)
            assert (await state(bus, "EVIDENCE"))["messages"] == taken
        await bus.close()
    finally:
        server.kill()
        subprocess.run(["umount", "-l", disk], check=False)
