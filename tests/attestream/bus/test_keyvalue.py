from __future__ import annotations

import asyncio

import pytest

from attestream.bus import keyvalue
from attestream.errors import FencedError, MalformedError
from schemas import topology

LEASES = topology.LEASES.name
CLUSTER = topology.CLUSTER.name


async def test_value_is_read_back_with_its_revision(bus):
    revision = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=0)
    entry = await keyvalue.get(bus, LEASES, "p.1")
    assert (entry.key, entry.value, entry.revision) == ("p.1", b"w1", revision)
    assert await keyvalue.get(bus, LEASES, "p.2") is None


async def test_only_the_holder_of_the_revision_writes(bus):
    first = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=0)
    second = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=first)
    for stale in (first, 0):
        with pytest.raises(FencedError):
            await keyvalue.put(bus, LEASES, "p.1", b"w2", expected=stale)
    assert (await keyvalue.get(bus, LEASES, "p.1")).revision == second
    await keyvalue.put(bus, LEASES, "p.1", b"w3", expected=None)


async def test_one_of_many_takers_gets_the_key(bus):
    results = await asyncio.gather(
        *(keyvalue.put(bus, LEASES, "p.1", b"%d" % i, expected=0) for i in range(10)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["FencedError"] * 9 + ["int"]


async def test_lapsed_key_is_absent_and_free_while_its_marker_lives(bus):
    """nats.py #966, #909: the library reads a marker as a value and can not create the key again."""
    first = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=0, ttl_s=1)
    assert (await keyvalue.entries(bus, LEASES)).keys() == {"p.1"}
    async with asyncio.timeout(30):
        while await keyvalue.get(bus, LEASES, "p.1") is not None:
            await asyncio.sleep(0.02)
    assert await keyvalue.entries(bus, LEASES) == {}
    with pytest.raises(FencedError):
        await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=first, ttl_s=1)
    takers = (keyvalue.put(bus, LEASES, "p.1", b"%d" % i, expected=0, ttl_s=5) for i in range(4))
    results = await asyncio.gather(*takers, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1


async def test_renewed_key_does_not_lapse(bus):
    revision = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=0, ttl_s=1)
    for _ in range(4):
        await asyncio.sleep(0.4)
        revision = await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=revision, ttl_s=1)
    assert (await keyvalue.get(bus, LEASES, "p.1")).revision == revision


async def test_deleted_key_is_absent_and_free(bus):
    revision = await keyvalue.put(bus, CLUSTER, "k", b"1", expected=0)
    with pytest.raises(FencedError):
        await keyvalue.delete(bus, CLUSTER, "k", expected=revision + 1)
    await keyvalue.delete(bus, CLUSTER, "k", expected=revision)
    assert await keyvalue.get(bus, CLUSTER, "k") is None
    assert "k" not in await keyvalue.entries(bus, CLUSTER)
    await keyvalue.put(bus, CLUSTER, "k", b"2", expected=0)


async def test_entries_are_selected_by_pattern(bus):
    for version in (1, 2):
        await keyvalue.put(bus, CLUSTER, topology.policy_key("web.prod", version), b"%d" % version, expected=0)
    await keyvalue.put(bus, CLUSTER, topology.policy_key("db", 1), b"x", expected=0)
    found = await keyvalue.entries(bus, CLUSTER, topology.policy_keys("web.prod"))
    assert {key: entry.value for key, entry in found.items()} == {"policy.web=prod.1": b"1", "policy.web=prod.2": b"2"}
    assert len(await keyvalue.entries(bus, CLUSTER, topology.policy_keys())) == 3


async def test_ordinary_client_reads_our_buckets(bus):
    await keyvalue.put(bus, LEASES, "p.1", b"w1", expected=0)
    bucket = await bus.nc.jetstream().key_value(LEASES)
    assert (await bucket.get("p.1")).value == b"w1"
    await bucket.put("p.2", b"theirs")
    assert (await keyvalue.get(bus, LEASES, "p.2")).value == b"theirs"
    await bucket.delete("p.2")
    assert await keyvalue.get(bus, LEASES, "p.2") is None


@pytest.mark.parametrize("key", ["", "a..b", ".a", "a.", "a b", "a.*", ">", "a\r\nPUB x 0", "é"])
async def test_key_that_could_reach_elsewhere_is_refused(bus, key):
    with pytest.raises(MalformedError):
        await keyvalue.put(bus, CLUSTER, key, b"", expected=None)
    with pytest.raises(MalformedError):
        await keyvalue.get(bus, CLUSTER, key)
