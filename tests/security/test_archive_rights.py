"""Kept evidence under the credentials of each role: verifiers write it, some people read it, nobody else does either."""

import asyncio
import secrets

import pytest

from attestream.archive import reading
from attestream.archive.packing import pack
from attestream.bus import objects
from attestream.bus.connection import BusSettings, connect
from attestream.errors import ForbiddenError
from devtools.secure_bus import agent_credentials, user_credentials
from devtools.wire_examples import EXAMPLES
from schemas import subjects, topology
from schemas.base import encode
from schemas.roles import Role

READERS = (Role.ADMIN, Role.OPERATOR, Role.AUDITOR)
OTHERS = (Role.POLICY_AUTHOR, Role.OBSERVER, Role.GATEWAY, Role.AGENT, Role.REGISTRAR, Role.NOTIFIER)
ENTRY = EXAMPLES["archive-entry"]


async def enter(secure_bus, role):
    place = secure_bus.installation
    path = agent_credentials(place, "host.one") if role is Role.AGENT else user_credentials(place, role, "somebody")
    return await connect(BusSettings(urls=[secure_bus.server.url], name="test", credentials=path))


@pytest.fixture
async def name(secure_bus):
    """An object that a verifier has kept, and a line that names it."""
    verifier = await enter(secure_bus, Role.VERIFIER)
    stored = await objects.put(verifier, topology.ARCHIVE_BUCKET, pack(secrets.token_bytes(300_000)), ttl_s=3600)
    subject = subjects.archived_evidence(ENTRY.agent_id)
    await verifier.publish_durable(subject, encode(ENTRY), message_id=secrets.token_hex(8), ttl_s=3600)
    await verifier.close()
    return stored


@pytest.mark.parametrize("role", READERS)
async def test_who_may_read_reads_lines_and_objects(secure_bus, name, role):
    bus = await enter(secure_bus, role)
    lines = [stored async for stored in reading.index(bus, subjects.ARCHIVED_EVIDENCE)]
    assert lines
    assert all(stored.data == encode(ENTRY) for stored in lines)
    assert await objects.get(bus, topology.ARCHIVE_BUCKET, name)
    await bus.close()


@pytest.mark.parametrize("role", OTHERS)
async def test_nobody_else_reads(secure_bus, name, role):
    bus = await enter(secure_bus, role)
    with pytest.raises(ForbiddenError):
        [stored async for stored in reading.index(bus, subjects.ARCHIVED_EVIDENCE)]
    with pytest.raises(ForbiddenError):
        await objects.get(bus, topology.ARCHIVE_BUCKET, name)
    await bus.close()


@pytest.mark.parametrize("role", [*READERS, *OTHERS])
async def test_nobody_but_a_verifier_writes(secure_bus, role):
    before = await secure_bus.counts()
    bus = await enter(secure_bus, role)
    targets = (
        subjects.archived_evidence(ENTRY.agent_id),
        subjects.archived_log(ENTRY.agent_id),
        f"$O.{topology.ARCHIVE_BUCKET}.C.forged",
        f"$O.{topology.ARCHIVE_BUCKET}.M.forged",
    )
    refused = await asyncio.gather(
        *(bus.publish_durable(target, b"x", message_id=target, timeout_s=5) for target in targets), return_exceptions=True
    )
    assert all(isinstance(error, ForbiddenError) for error in refused), refused
    await bus.close()
    after = await secure_bus.counts()
    assert [after[name] for name in ("ARCHIVE", "OBJ_evidence")] == [before[name] for name in ("ARCHIVE", "OBJ_evidence")]
