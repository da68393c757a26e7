from __future__ import annotations

import asyncio

import msgspec
import pytest

from attestream.bus import jetstream, keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import (
    bucket_config,
    ensure_topology,
    object_config,
    prepare,
    provision,
    stream_config,
    topology_ready,
)
from attestream.errors import BusError, ConfigError, ForbiddenError
from devtools.secure_bus import secure_installation, secure_server
from schemas import subjects, topology
from schemas.roles import Role

DAY_S = 86_400
CONFIGS = (
    [stream_config(stream) for stream in topology.STREAMS]
    + [bucket_config(bucket) for bucket in topology.BUCKETS]
    + [object_config(name) for name in topology.OBJECT_BUCKETS]
)


@pytest.mark.parametrize("declared", CONFIGS, ids=lambda config: config["name"])
async def test_server_holds_every_declaration_as_it_is_written(bus, declared):
    """So that a second start changes nothing."""
    config = (await jetstream.call(bus, f"STREAM.INFO.{declared['name']}"))["config"]
    # The server adds notes of its own to ours.
    assert config == config | declared | {"metadata": config["metadata"]}
    assert config["metadata"].items() >= declared["metadata"].items()


async def test_many_services_at_once_on_a_fresh_server(nats_server):
    buses = [await connect(BusSettings(urls=[nats_server.url])) for _ in range(5)]
    await asyncio.gather(*(ensure_topology(bus) for bus in buses))
    entry = await keyvalue.get(buses[0], topology.CLUSTER.name, topology.KEY_PARTITIONS)
    assert entry.value == b"64"
    for bus in buses:
        await bus.close()


async def test_stream_is_brought_into_line_and_keeps_its_messages(bus):
    await bus.publish_durable(subjects.event("failed", "a"), b"x", message_id="1")
    info = await jetstream.call(bus, "STREAM.INFO.EVENTS")
    await jetstream.call(
        bus, "STREAM.UPDATE.EVENTS", info["config"] | {"max_age": 3_600_000_000_000, "max_bytes": 1_000_000}
    )
    await ensure_topology(bus, sizes={}, ages={})
    after = await jetstream.call(bus, "STREAM.INFO.EVENTS")
    assert after["config"] == info["config"]
    assert after["state"]["messages"] == 1


async def test_ages_are_those_that_were_chosen_and_stay_when_nobody_chooses(bus):
    async def ages():
        infos = [await jetstream.call(bus, f"STREAM.INFO.{name}") for name in ("EVENTS", "DEAD", "EVIDENCE")]
        return [info["config"]["max_age"] // 10**9 for info in infos]

    declared = [400 * DAY_S, 30 * DAY_S, DAY_S]
    assert await ages() == declared
    await ensure_topology(bus, ages={"EVENTS": 7 * DAY_S, "DEAD": 0})
    await ensure_topology(bus)
    assert await ages() == [7 * DAY_S, 0, DAY_S]
    await ensure_topology(bus, ages={})
    assert await ages() == declared


async def test_cluster_of_another_partition_count_is_refused(bus):
    await keyvalue.put(bus, topology.CLUSTER.name, topology.KEY_PARTITIONS, b"128", expected=None)
    with pytest.raises(ConfigError, match="128 partitions"):
        await ensure_topology(bus)


async def test_topology_survives_a_killed_server(bus, nats_server):
    await bus.publish_durable(subjects.event("failed", "a"), b"x", message_id="1")
    await keyvalue.put(bus, topology.LEASES.name, "p.1", b"w", expected=0)
    nats_server.kill()
    nats_server.start()
    await ensure_topology(bus)
    assert (await jetstream.call(bus, "STREAM.INFO.EVENTS"))["state"]["messages"] == 1
    await keyvalue.put(bus, topology.LEASES.name, "p.1", b"w2", expected=None)


async def test_revocations_are_republished_to_agents(bus):
    heard: asyncio.Queue = asyncio.Queue()

    async def note(message) -> None:
        heard.put_nowait(message)

    await bus.subscribe(subjects.revoked("a"), note)
    ack = await bus.publish_durable(subjects.revocation("a"), b"signed", message_id="r1")
    message = await asyncio.wait_for(heard.get(), 30)
    assert (message.subject, message.data) == (subjects.revoked("a"), b"signed")
    assert message.headers[subjects.HEADER_SEQUENCE] == str(ack.sequence)


@pytest.fixture
def secured(tmp_path):
    installation = secure_installation(tmp_path / "installation")
    server = secure_server(installation)
    server.start()
    yield installation, server
    server.kill()


async def test_service_waits_for_the_provisioner_and_makes_nothing_itself(secured):
    installation, server = secured
    settings = BusSettings(urls=[server.url], credentials=installation.credentials(Role.VERIFIER))
    bus = await connect(settings)
    with pytest.raises(BusError, match="not provisioned: there is no EVIDENCE"):
        await topology_ready(bus, timeout_s=0.01)
    with pytest.raises(ForbiddenError):
        await ensure_topology(bus)
    with pytest.raises(ConfigError, match="may not make streams"):
        await provision(settings)
    waiting = asyncio.create_task(prepare(bus))
    await provision(msgspec.structs.replace(settings, credentials=installation.credentials(Role.PROVISIONER)))
    await waiting
    # What it wrote is still there, and still enough, after the server was gone.
    server.kill()
    server.start()
    await prepare(bus)
    await bus.close()


async def test_service_refuses_the_streams_of_a_newer_version(bus):
    info = await jetstream.call(bus, f"STREAM.INFO.{topology.EVENTS.name}")
    config = info["config"] | {"metadata": {topology.NOTE_VERSION: str(topology.VERSION + 1)}}
    await jetstream.call(bus, f"STREAM.UPDATE.{topology.EVENTS.name}", config)
    with pytest.raises(ConfigError, match="newer version"):
        await topology_ready(bus)
