"""Commands outlive every service: accepted while nobody can execute them, executed in order, and once."""

import json
import sqlite3
import uuid
from collections import Counter

import pytest

from attestream.bus import jetstream, keyvalue, objects
from attestream.errors import AttestreamError
from devtools.pool import allowing, eventually
from schemas import subjects, topology
from schemas.base import encode
from schemas.commands import (
    AddAgent,
    AgentStatus,
    Attestation,
    DeleteAgent,
    PolicyRecord,
    PublishPolicy,
    StartAgent,
    StopAgent,
    UpdateAgent,
)
from schemas.enrolment import AgentQuery
from schemas.events import EventKind, Standing


def new_id():
    return uuid.uuid4().hex


@pytest.fixture
def cluster(make_cluster):
    """A cluster whose agents may take long to answer: none is silent here, and an answer that is late is an event."""
    return make_cluster(verifier={"challenge_timeout_ms": 10_000})


@pytest.fixture
def send(bus):
    """Publishes a command and waits for nothing."""

    async def publish(command):
        subject = subjects.command(command.name if isinstance(command, PublishPolicy) else command.agent_id)
        await bus.publish_durable(subject, command, message_id=command.command_id)
        return command.command_id

    return publish


@pytest.fixture
def locked(cluster):
    """Keeps the verifiers' database from being written, so that a command stops between its event and its row."""
    connection = sqlite3.connect(cluster.database("verifier").removeprefix("sqlite:///"), isolation_level=None)
    yield connection
    connection.close()


async def test_sent_while_no_verifier_is_alive(cluster, make_fleet, tenant, observer, send):
    one = await cluster.verifier("one")
    fleet = await make_fleet(3)
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    one.kill()
    ids = {}
    for agent_id in fleet.agents:
        ids[agent_id] = [
            await send(AddAgent(command_id=new_id(), agent_id=agent_id, attestation=Attestation(policy="base"))),
            await send(StopAgent(command_id=new_id(), agent_id=agent_id)),
            await send(StartAgent(command_id=new_id(), agent_id=agent_id)),
        ]
    await one.restart()
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED, 60)
        record = await observer.record(agent_id=agent_id)
        assert [event.kind for event in record] == [
            EventKind.ADDED,
            EventKind.STOPPED,
            EventKind.STARTED,
            EventKind.TRUSTED,
        ]
        assert [event.command_id for event in record] == [*ids[agent_id], ""]


async def test_an_agent_is_added_while_the_registrar_is_down(bus, cluster, make_fleet, tenant, observer, send):
    """What follows a command that has to wait waits as well."""
    one = await cluster.verifier("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    add = await send(AddAgent(command_id=new_id(), agent_id="agent-000", attestation=Attestation(policy="base")))
    stop = await send(StopAgent(command_id=new_id(), agent_id="agent-000"))
    await eventually(lambda: "nobody answers" in one.log, 10)
    await make_fleet(1)

    async def done():
        return [event.command_id for event in await observer.record(agent_id="agent-000")] == [add, stop]

    await eventually(done, 20)


@pytest.mark.parametrize("kind", ["add", "update", "delete"])
async def test_the_worker_dies_between_the_event_and_the_row(bus, cluster, make_fleet, tenant, observer, send, locked, kind):
    one = await cluster.verifier("one")
    fleet = await make_fleet(1)
    [agent_id] = fleet.agents
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.push("other", allowing("boot_aggregate", "/usr/bin/new"))).ok
    other = Attestation(policy="other", interval_ms=777, lease_ms=60_000)
    command = {
        "add": AddAgent(command_id=new_id(), agent_id=agent_id, attestation=other),
        "update": UpdateAgent(command_id=new_id(), agent_id=agent_id, attestation=other),
        "delete": DeleteAgent(command_id=new_id(), agent_id=agent_id),
    }[kind]
    if kind != "add":
        assert (await tenant.add(agent_id, lease_ms=60_000)).ok
        await tenant.becomes(agent_id, Standing.TRUSTED)
    await eventually(lambda: begin(locked))
    await send(command)

    async def recorded():
        return [event for event in await observer.record() if event.command_id == command.command_id]

    await eventually(recorded)
    one.kill()
    locked.execute("ROLLBACK")
    await one.restart()
    if kind == "delete":
        # Its lease of a minute must not go on to say that the forgotten agent is trusted.
        await tenant.becomes(agent_id, Standing.UNKNOWN, 60)
    else:

        async def applied():
            status = await bus.request(subjects.QUERY_VERIFIER_AGENT, AgentQuery(agent_id=agent_id), AgentStatus)
            return (status.policy, status.interval_ms, status.standing) == ("other@1", 777, Standing.TRUSTED)

        await eventually(lambda: tolerate(applied), 20)
    await eventually(lambda: commands_are_done(bus), 20)
    assert len(await recorded()) == 1
    await observer.record_is_sound()


async def test_a_policy_whose_announcement_a_crash_prevented(bus, cluster, observer, send):
    """The version was made, and the worker died: the command comes again and makes no second one."""
    documents = [allowing("boot_aggregate"), allowing("boot_aggregate", "/usr/bin/new")]
    digests = [await objects.put(bus, topology.POLICIES, json.dumps(document).encode()) for document in documents]
    commands = [PublishPolicy(command_id=new_id(), name="base", digest=digest) for digest in digests]
    for version, command in enumerate(commands, 1):
        made = PolicyRecord(name="base", version=version, digest=command.digest, at=1, command_id=command.command_id)
        key = topology.policy_key("base", version)
        await keyvalue.put(bus, topology.CLUSTER.name, key, encode(made), expected=0)
    for command in commands:
        await send(command)
    await cluster.verifier("one")
    await eventually(lambda: commands_are_done(bus), 20)
    announced = Counter(event.policy for event in await observer.record(EventKind.POLICY_PUBLISHED))
    assert announced == {"base@1": 1, "base@2": 1}
    assert len(await keyvalue.entries(bus, topology.CLUSTER.name, topology.policy_keys("base"))) == 2


def begin(connection):
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


async def tolerate(question):
    """A question that may find nobody to answer yet."""
    try:
        return await question()
    except AttestreamError:
        return False


async def commands_are_done(bus):
    info = await jetstream.call(bus, f"STREAM.INFO.{topology.COMMANDS.name}")
    return info["state"]["messages"] == 0
