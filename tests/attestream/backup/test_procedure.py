"""A cluster that is lost and comes back from its backup: real servers, real databases."""

import pytest
import sqlalchemy as sa

from attestream.backup import contents, procedure
from attestream.backup.procedure import Database
from attestream.bus import jetstream, keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.config import VerifierConfig
from attestream.database import migrate, open_engine
from attestream.embedded.nats import NatsServer
from attestream.errors import ConfigError, MalformedError
from devtools.pool import Pool, Tenant, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.events import EventKind, Standing

SETTINGS = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)
AGENTS = [f"agent-{number}" for number in range(3)]
EVIL = "/usr/bin/evil"


def silent(_entry):
    pass


async def save(bus, engine, directory):
    return await procedure.create(
        bus, [Database("verifier", engine)], directory, now=1, key_files=[], passphrase="", signer=None, tell=silent
    )


async def restore(bus, stores, directory, tell=silent):
    await procedure.restore(bus, stores, directory, contents.open_backup(directory, None), tell=tell)


@pytest.fixture
async def fleet(bus):
    fleet = SoftFleet(bus, [make_agent(agent_id) for agent_id in AGENTS])
    await fleet.start()
    await fleet.serve_identities()
    yield fleet
    await fleet.stop()


@pytest.fixture
async def attested(nats_server, bus, fleet, tmp_path):
    """A pool whose three agents are trusted, one of them failed after that."""
    (tmp_path / "first").mkdir()
    pool = Pool(nats_server.url, tmp_path / "first", SETTINGS)
    tenant = Tenant(bus)
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    for agent_id in AGENTS:
        assert (await tenant.add(agent_id)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    fleet.agents["agent-2"].run(EVIL, digest_of(EVIL))
    await tenant.becomes("agent-2", Standing.FAILED)
    yield pool
    await pool.close()


@pytest.fixture
async def other_bus(tmp_path):
    """A connection to another, empty server."""
    server = NatsServer(tmp_path / "other")
    server.start()
    bus = await connect(BusSettings(urls=[server.url], name="restored", reconnect_spread_s=0.1))
    bus.server = server
    yield bus
    await bus.close()
    server.kill()


async def test_a_lost_cluster_comes_back_and_goes_on(attested, other_bus, tmp_path, fleet, bus):
    before = await Tenant(bus).events("agent-2")
    await save(bus, attested.engine, tmp_path / "backup")
    await attested.cut("one")

    (tmp_path / "second").mkdir()
    pool = Pool(other_bus.server.url, tmp_path / "second", SETTINGS)
    await migrate(pool.engine, "services.verifier.migrations")
    await ensure_topology(other_bus)
    told = []
    await restore(other_bus, [Database("verifier", pool.engine)], tmp_path / "backup", tell=told.append)
    await ensure_topology(other_bus)
    assert {entry.name: entry.items for entry in told}["verifier"] >= len(AGENTS)

    tenant = Tenant(other_bus)
    # Nobody is trusted because it once was.
    assert [await tenant.standing(agent_id) for agent_id in AGENTS] == [Standing.UNKNOWN] * 3
    survivors = SoftFleet(other_bus, fleet.agents.values())
    await survivors.start()
    await survivors.serve_identities()
    await pool.start("two")
    await tenant.becomes("agent-0", Standing.TRUSTED)
    await tenant.becomes("agent-1", Standing.TRUSTED)
    await tenant.becomes("agent-2", Standing.FAILED)
    after = await tenant.events("agent-2")
    assert [event.id for event in after[: len(before)]] == [event.id for event in before]
    survivors.agents["agent-1"].run(EVIL, digest_of(EVIL))
    await tenant.becomes("agent-1", Standing.FAILED)
    numbers = [event.event_number for event in await tenant.events("agent-1")]
    assert numbers == sorted(set(numbers))
    await pool.close()
    await survivors.stop()


async def test_sequences_and_places_of_consumers_are_kept(attested, other_bus, tmp_path, bus):
    info = await jetstream.call(bus, f"STREAM.INFO.{topology.EVENTS.name}")
    create = {"stream_name": "EVENTS", "config": {"durable_name": "siem", "ack_policy": "explicit"}}
    await jetstream.call(bus, "CONSUMER.CREATE.EVENTS.siem", create)
    inbox = bus.nc.new_inbox()
    subscription = await bus.nc.subscribe(inbox)
    await bus.nc.publish("$JS.API.CONSUMER.MSG.NEXT.EVENTS.siem", b'{"batch":1}', reply=inbox)
    pulled = await subscription.next_msg(timeout=10)
    await bus.nc.publish(pulled.reply, b"+ACK")
    await eventually(lambda: acknowledged(bus, 1))
    await save(bus, attested.engine, tmp_path / "backup")
    await restore(other_bus, [], tmp_path / "backup", tell=silent)
    restored = await jetstream.call(other_bus, f"STREAM.INFO.{topology.EVENTS.name}")
    assert restored["state"]["last_seq"] >= info["state"]["last_seq"]
    assert restored["config"]["subjects"] == [subjects.EVENTS]
    assert await acknowledged(other_bus, 1)
    policies = await keyvalue.entries(other_bus, topology.CLUSTER.name, topology.policy_keys())
    assert len(policies) == 1


async def acknowledged(bus, number):
    info = await jetstream.call(bus, "CONSUMER.INFO.EVENTS.siem")
    return info["ack_floor"]["stream_seq"] == number


async def test_results_and_evidence_are_not_kept(attested, bus, tmp_path):
    manifest = await save(bus, attested.engine, tmp_path / "backup")
    names = {entry.name for entry in manifest.entries}
    assert not names & {topology.RESULTS.name, topology.EVIDENCE.name}


async def test_a_cluster_that_holds_something_is_not_overwritten(attested, bus, tmp_path):
    await save(bus, attested.engine, tmp_path / "backup")
    with pytest.raises(ConfigError, match="alive: one"):
        await restore(bus, [], tmp_path / "backup", tell=silent)
    await attested.stop("one")
    events = len(await Tenant(bus).events("agent-2"))
    with pytest.raises(ConfigError, match="not empty: COMMANDS"):
        await restore(bus, [], tmp_path / "backup", tell=silent)
    assert len(await Tenant(bus).events("agent-2")) == events
    assert EventKind.FAILED in [event.kind for event in await Tenant(bus).events("agent-2")]


async def test_a_database_that_holds_rows_is_not_overwritten(attested, other_bus, bus, tmp_path):
    await save(bus, attested.engine, tmp_path / "backup")
    with pytest.raises(ConfigError, match="holds rows"):
        await restore(other_bus, [Database("verifier", attested.engine)], tmp_path / "backup", tell=silent)


async def test_an_altered_or_interrupted_backup_is_not_restored(attested, other_bus, bus, tmp_path):
    place = tmp_path / "backup"
    await save(bus, attested.engine, place)
    target = place / "EVENTS.stream"
    whole = target.read_bytes()
    target.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MalformedError, match=r"EVENTS\.stream is not the file"):
        await restore(other_bus, [], place, tell=silent)
    target.write_bytes(whole)
    (place / contents.MANIFEST).rename(place / "gone")
    with pytest.raises(ConfigError, match="no whole backup"):
        await restore(other_bus, [], place, tell=silent)
    assert (await jetstream.call(other_bus, "STREAM.NAMES"))["streams"] is None


@pytest.mark.parametrize("name", ["../EVENTS", "EVENTS/x", ""])
def test_a_manifest_can_not_name_files_elsewhere(tmp_path, name):
    contents.start(tmp_path / "backup")
    entry = contents.Entry(kind="stream", name=name, size=0, sha256="", items=0)
    contents.finish(tmp_path / "backup", contents.Manifest(format=contents.FORMAT, version="", at=0, entries=[entry]), None)
    with pytest.raises(MalformedError, match="names a file"):
        contents.open_backup(tmp_path / "backup", None)


async def test_a_backup_never_goes_into_a_directory_that_holds_something(bus, tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "letter").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        await procedure.create(bus, [], tmp_path / "backup", now=1, key_files=[], passphrase="", signer=None, tell=silent)


async def test_rows_move_from_sqlite_to_postgresql(attested, bus, other_bus, tmp_path, postgres_url):
    await attested.stop("one")  # so that its rows stay what they are
    await save(bus, attested.engine, tmp_path / "backup")
    engine = open_engine(postgres_url)
    try:
        await migrate(engine, "services.verifier.migrations")
        await restore(other_bus, [Database("verifier", engine)], tmp_path / "backup", tell=silent)
        select = sa.text("SELECT agent_id, standing, state FROM verifier_attesters ORDER BY agent_id")
        async with attested.engine.connect() as here, engine.connect() as there:
            rows = [tuple(row) for row in await there.execute(select)]
            assert rows == [tuple(row) for row in await here.execute(select)]
        assert [row[0] for row in rows] == AGENTS
    finally:
        await engine.dispose()
