"""What a client writes into the headers and the subject of a message does not end its receiver's connection, and does not
pass for what the server has written."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest

from attestream.bus import objects
from attestream.bus.consume import Consumer
from attestream.bus.partitions import partition
from attestream.bus.stored import last_message
from devtools.bus_identities import connect_with
from devtools.pool import eventually
from devtools.secure_bus import user_credentials
from schemas import subjects, topology
from schemas.roles import Role
from services.registrar.gate import source_of

AGENT = "agent-1"
FORGED = json.dumps({"acc": "A", "host": "192.0.2.1"}).encode()
NOT_ASCII = {
    "a status": b"NATS/1.0 \xff\xfe\xfd x\r\n\r\n",
    "its description": b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    "its description before headers": b"NATS/1.0 503 \xff\r\nA: b\r\n\r\n",
    "a value": b"NATS/1.0\r\nA: \xff\r\n\r\n",
    "a name": b"NATS/1.0\r\n\xff: b\r\n\r\n",
}
UNFINISHED = {
    "a blank before the name": b"NATS/1.0\r\n Nats-Request-Info: " + FORGED + b"\r\nB: b",
    "a blank behind the name": b"NATS/1.0\r\nNats-Request-Info : " + FORGED + b"\r\nB: b",
    "a tab": b"NATS/1.0\r\n\tNats-Request-Info: " + FORGED + b"\r\nB: b",
    "a line that ends otherwise": b"NATS/1.0\r\n\nNats-Request-Info: " + FORGED + b"\r\nB: b",
    "another version": b"0123456789Nats-Request-Info: " + FORGED + b"\r\nB: ",
    "the name itself": b"NATS/1.0\r\nNats-Request-Info: " + FORGED + b"\r\nB: b",
    "a good line": b"NATS/1.0\r\nA: b",
}


@pytest.fixture
async def connected(secure_bus):
    """Connects in a role, and counts what is heard."""
    made = []

    async def run(role, name="me"):
        bus = await connect_with(secure_bus.server.url, user_credentials(secure_bus.installation, role, name))
        bus.heard = []
        made.append(bus)
        return bus

    yield run
    for bus in made:
        await bus.close()


async def listen(bus, subject):
    async def hear(message):
        bus.heard.append(message)

    await bus.nc.subscribe(subject, cb=hear)
    await bus.nc.flush()


async def send(bus, subject, data, headers=b"NATS/1.0\r\n\r\n"):
    """Publish what the client library would not."""
    reply = bus.nc.new_inbox().encode()
    line = b"HPUB %b %b %d %d\r\n" % (subject, reply, len(headers), len(headers) + len(data))
    await bus.nc._send_command(line + headers + data + b"\r\n")
    await bus.nc._flush_pending()
    await bus.nc.flush()


async def hears_on(receiver, sender, subject):
    """Have ``sender`` say something honest, and check that it is heard over the connection that there was."""
    await send(sender, subject, b"honest")
    await eventually(lambda: any(message.data == b"honest" for message in receiver.heard))
    assert receiver.nc.is_connected
    assert receiver.reconnects == 0


async def test_headers_that_are_not_ascii_end_no_connection(connected):
    registrar, sender = await connected(Role.REGISTRAR), await connected(Role.ENROLMENT)
    await listen(registrar, subjects.REGISTRAR_ENROL)
    for headers in NOT_ASCII.values():
        await send(sender, subjects.REGISTRAR_ENROL.encode(), b"hostile", headers)
    await hears_on(registrar, sender, subjects.REGISTRAR_ENROL.encode())


@pytest.mark.parametrize("what", UNFINISHED)
async def test_nobody_makes_up_the_address_that_he_asks_from(connected, what):
    """Only what the server has written behind the last line counts."""
    registrar, sender = await connected(Role.REGISTRAR), await connected(Role.ENROLMENT)
    await listen(registrar, subjects.REGISTRAR_ENROL)
    await send(sender, subjects.REGISTRAR_ENROL.encode(), b"hostile", UNFINISHED[what])
    await hears_on(registrar, sender, subjects.REGISTRAR_ENROL.encode())
    sources = {message.data: source_of(message) for message in registrar.heard}
    assert "192.0.2.1" not in sources.get(b"hostile", "")
    assert sources[b"honest"].endswith(" 127.0.0.1")


@pytest.mark.parametrize("what", [*NOT_ASCII, *UNFINISHED])
async def test_what_is_stored_with_such_headers_keeps_nobody_from_reading_the_rest(connected, what):
    """A policy author describes a policy anew, and puts pieces before and behind it."""
    verifier, author, hostile = [
        await connected(role, name)
        for role, name in ((Role.VERIFIER, "me"), (Role.POLICY_AUTHOR, "alice"), (Role.POLICY_AUTHOR, "mallory"))
    ]
    bucket, document = topology.POLICIES, f"a policy beside {what}".encode()
    headers = (NOT_ASCII | UNFINISHED)[what]
    digest = await objects.put(author, bucket, document)
    described = objects._meta_subject(bucket, digest)
    place = json.loads((await last_message(verifier, f"OBJ_{bucket}", described)).data)["nuid"]
    for subject in (described, f"$O.{bucket}.C.{place}"):
        await send(hostile, subject.encode(), b"hostile", headers)
    for reader in (verifier, author):
        assert await objects.get(reader, bucket, digest) == document
        assert reader.reconnects == 0


async def test_evidence_with_such_headers_is_one_message_of_many(connected):
    """It is stored, and would end the connection of each verifier that it is given to, again and again."""
    verifier, agent = await connected(Role.VERIFIER), await connected(Role.AGENT, AGENT)
    subject, index = subjects.evidence(AGENT).encode(), partition(AGENT)
    for headers in NOT_ASCII.values():
        await send(agent, subject, b"hostile", headers)

    async def take(delivery):
        verifier.heard.append(delivery)

    filters = [subjects.evidence_partition(index)]
    async with Consumer(verifier, topology.EVIDENCE.name, f"verifier-evidence-{index}", take, filters=filters):
        await hears_on(verifier, agent, subject)
    assert [delivery.data for delivery in verifier.heard[:-1]] == [b"hostile"] * len(NOT_ASCII)


@pytest.mark.parametrize("token", [b"\xff\xfe", "\u2028".encode(), b"a\x0bb", b"a\x0c7", b"\x00"])
async def test_a_subject_that_is_no_text_ends_no_connection(connected, token):
    """Whoever may give commands chooses the last token of their subject."""
    verifier, operator = await connected(Role.VERIFIER), await connected(Role.OPERATOR, "olga")

    async def take(delivery):
        verifier.heard.append(delivery)

    names = {index: f"verifier-commands-{index}" for index in (odd_partition(token), partition("honest"))}
    async with AsyncExitStack() as stack:
        for index, name in names.items():
            filters = [subjects.command_partition(index)]
            await stack.enter_async_context(Consumer(verifier, topology.COMMANDS.name, name, take, filters=filters))
        await send(operator, b"att.command." + token, b"hostile")
        await hears_on(verifier, operator, b"att.command.honest")
        await eventually(lambda: len(verifier.heard) == len(names))
    assert all(delivery.subject.isascii() for delivery in verifier.heard)


def odd_partition(token):
    """Return the partition of a token that is no text, as the server has it: FNV-1a."""
    value = 2_166_136_261
    for byte in token:
        value = (value ^ byte) * 16_777_619 % (1 << 32)
    return value % subjects.PARTITIONS
