from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from attestream.bus import jetstream, objects
from attestream.bus.stored import last_messages
from attestream.errors import MalformedError
from schemas.topology import POLICIES


@pytest.mark.parametrize("size", [0, 1, objects.CHUNK_BYTES, objects.CHUNK_BYTES + 1, 6_000_000])
async def test_object_is_read_back(bus, size):
    data = os.urandom(size)
    digest = await objects.put(bus, POLICIES, data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert await objects.get(bus, POLICIES, digest) == data


async def test_object_is_stored_once_however_often_it_is_put(bus):
    data = os.urandom(300_000)
    assert len({*(await asyncio.gather(*(objects.put(bus, POLICIES, data) for _ in range(5))))}) == 1
    await objects.put(bus, POLICIES, data)
    state = (await jetstream.call(bus, f"STREAM.INFO.OBJ_{POLICIES}"))["state"]
    descriptions = await last_messages(bus, f"OBJ_{POLICIES}", [f"$O.{POLICIES}.M.>"])
    assert len(descriptions) == 1
    assert state["messages"] <= 5 * 3 + 1, "what is there already is not sent again"
    assert await objects.get(bus, POLICIES, hashlib.sha256(data).hexdigest()) == data


async def test_unknown_object_is_absent(bus):
    assert await objects.get(bus, POLICIES, "0" * 64) is None


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "../" + "0" * 61, "0" * 65, "*"])
async def test_name_that_is_no_digest_is_refused(bus, digest):
    with pytest.raises(MalformedError):
        await objects.get(bus, POLICIES, digest)


async def test_content_that_was_changed_in_the_bucket_is_refused(bus):
    """Whoever can write to the bus must not be able to change a policy under its digest."""
    digest = await objects.put(bus, POLICIES, b"allow nothing")
    (chunk,) = await last_messages(bus, f"OBJ_{POLICIES}", [f"$O.{POLICIES}.C.>"])
    await jetstream.call(bus, f"STREAM.PURGE.OBJ_{POLICIES}", {"filter": chunk.subject})
    await bus.publish_durable(chunk.subject, b"allow all....", message_id="forged")
    with pytest.raises(MalformedError, match="not what its name says"):
        await objects.get(bus, POLICIES, digest)


async def test_object_with_lost_chunks_is_refused(bus):
    digest = await objects.put(bus, POLICIES, b"allow nothing")
    await jetstream.call(bus, f"STREAM.PURGE.OBJ_{POLICIES}", {"filter": f"$O.{POLICIES}.C.>"})
    with pytest.raises(MalformedError):
        await objects.get(bus, POLICIES, digest)


async def test_description_that_is_no_description_is_refused(bus):
    name = "0" * 64
    for index, text in enumerate((b"[]", b"{", b'{"nuid":"x"}', b'{"nuid":"x","size":"many"}')):
        await bus.publish_durable(objects._meta_subject(POLICIES, name), text, message_id=f"{index}")
        with pytest.raises(MalformedError):
            await objects.get(bus, POLICIES, name)


async def test_object_that_claims_to_be_huge_is_refused(bus):
    name = "0" * 64
    text = b'{"nuid":"x","size":%d}' % (objects.MAX_OBJECT_BYTES + 1)
    await bus.publish_durable(objects._meta_subject(POLICIES, name), text, message_id="1")
    with pytest.raises(MalformedError):
        await objects.get(bus, POLICIES, name)


async def test_ordinary_client_reads_our_objects(bus):
    data = os.urandom(300_000)
    digest = await objects.put(bus, POLICIES, data)
    bucket = await bus.nc.jetstream().object_store(POLICIES)
    assert bytes((await bucket.get(digest)).data) == data
