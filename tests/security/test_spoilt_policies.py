"""A policy author can store objects, and with that right describe anew what somebody else has stored."""

import hashlib
import json

import pytest

from attestream.bus import objects
from attestream.bus.stored import last_message
from attestream.bus.topology import ensure_topology
from attestream.errors import MalformedError
from devtools.bus_identities import connect_with
from devtools.secure_bus import secure_installation, secure_server, user_credentials
from schemas.roles import Role
from schemas.topology import POLICIES

DOCUMENT = b"a policy that agents are attested by"
MANY = 80
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
    """It was described before, as often as one likes, and is again."""
    verifier, alice, mallory = people
    subject = objects._meta_subject(POLICIES, hashlib.sha256(DOCUMENT).hexdigest())
    for number in range(MANY):
        text = b'{"nuid":"none%d","size":5}' % number if number % 2 else WRONG[number // 2 % len(WRONG)]
        await mallory.publish_durable(subject, text, message_id=f"early-{number}")
    digest = await objects.put(alice, POLICIES, DOCUMENT)
    assert await objects.get(verifier, POLICIES, digest) == DOCUMENT
    for number in range(MANY):
        await mallory.publish_durable(subject, b'{"nuid":"late%d","size":5}' % number, message_id=f"late-{number}")
    assert await objects.get(verifier, POLICIES, digest) == DOCUMENT


async def test_no_author_spoils_the_policy_of_another_by_putting_more_behind_it(people):
    verifier, alice, mallory = people
    digest = await objects.put(alice, POLICIES, DOCUMENT)
    meta = json.loads((await last_message(verifier, f"OBJ_{POLICIES}", objects._meta_subject(POLICIES, digest))).data)
    await mallory.publish_durable(f"$O.{POLICIES}.C.{meta['nuid']}", b"and more", message_id="behind")
    assert await objects.get(verifier, POLICIES, digest) == DOCUMENT


async def test_no_description_makes_a_reader_take_all_that_is_stored(people):
    verifier, alice, mallory = people
    other = hashlib.sha256(b"another").hexdigest()
    await objects.put(alice, POLICIES, b"another")
    wanted = hashlib.sha256(DOCUMENT).hexdigest()
    for name in ("*", ">", "a.b", ""):
        text = json.dumps({"nuid": name, "size": 7}).encode()
        await mallory.publish_durable(objects._meta_subject(POLICIES, wanted), text, message_id=f"wild-{name}")
        await mallory.publish_durable(objects._meta_subject(POLICIES, other), text, message_id=f"wild-other-{name}")
    with pytest.raises(MalformedError):
        await objects.get(verifier, POLICIES, wanted)
    assert await objects.get(verifier, POLICIES, other) == b"another"
