"""A policy author can store objects, and with that right describe anew what somebody else has stored."""

import hashlib

import pytest

from attestream.bus import objects
from attestream.bus.topology import ensure_topology
from devtools.bus_identities import connect_with
from devtools.secure_bus import secure_installation, secure_server, user_credentials
from schemas.roles import Role
from schemas.topology import POLICIES

DOCUMENT = b"a policy that agents are attested by"
WRONG = (b'{"deleted":true}', b'{"nuid":"none","size":5}', b"[]", b'{"nuid":"none","size":99999999999}')


@pytest.fixture
async def people(tmp_path):
    """The verifier, an author, and another author who is hostile."""
    installation = secure_installation(tmp_path / "installation")
    server = secure_server(installation)
    server.start()
    made = [await connect_with(server.url, installation.credentials(Role.PROVISIONER))]
    await ensure_topology(made[0])
    made.append(await connect_with(server.url, installation.credentials(Role.VERIFIER)))
    for name in ("alice", "mallory"):
        made.append(await connect_with(server.url, user_credentials(installation, Role.POLICY_AUTHOR, name)))
    yield made[1:]
    for bus in made:
        await bus.close()
    server.kill()


async def test_no_author_makes_the_policy_of_another_unreadable(people):
    verifier, alice, mallory = people
    digest = await objects.put(alice, POLICIES, DOCUMENT)
    for number, text in enumerate(WRONG):
        await mallory.publish_durable(objects._meta_subject(POLICIES, digest), text, message_id=f"wrong-{number}")
        assert await objects.get(verifier, POLICIES, digest) == DOCUMENT
        assert await objects.get(alice, POLICIES, digest) == DOCUMENT


async def test_no_author_keeps_another_from_storing_a_policy(people):
    """Its description was there before, more often than descriptions are tried."""
    verifier, alice, mallory = people
    digest = hashlib.sha256(DOCUMENT).hexdigest()
    for number in range(objects._DESCRIPTIONS + 8):
        text = WRONG[number % len(WRONG)]
        await mallory.publish_durable(objects._meta_subject(POLICIES, digest), text, message_id=f"early-{number}")
    assert await objects.put(alice, POLICIES, DOCUMENT) == digest
    assert await objects.get(verifier, POLICIES, digest) == DOCUMENT
