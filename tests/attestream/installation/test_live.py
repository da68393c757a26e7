"""The roster on the bus: whoever publishes one past the registrar takes no other's change back. On a real secure server."""

from __future__ import annotations

import shutil

import pytest

from attestream.bus import keyvalue
from attestream.errors import SupersededError
from attestream.installation import live, procedures
from attestream.installation.places import Installation
from attestream.installation.roster import load_roster
from attestream.installation.staff import set_approvals
from schemas import topology
from schemas.roles import Role


@pytest.fixture
def elsewhere(installation, tmp_path):
    """The same installation on another machine, where somebody else changes it."""
    return Installation(shutil.copytree(installation.directory, tmp_path / "elsewhere"))


@pytest.fixture
async def stored(connected):
    """Returns what the bus has, and its revision."""
    bus = await connected(Role.PROVISIONER)

    async def read():
        entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
        return entry.value, entry.revision

    return read


async def test_a_roster_that_is_there_is_not_written_again(installation, secured, stored):
    """The registrar's word about it is beside it."""
    await live.publish_roster(installation, [secured.url])
    before = await stored()
    assert before[0] == installation.roster.read_bytes()
    await live.publish_roster(installation, [secured.url])
    assert await stored() == before


async def test_what_was_changed_elsewhere_is_not_taken_back(installation, elsewhere, secured, stored):
    urls = [secured.url]
    set_approvals(elsewhere, 2, by="other", now_ms=1)
    await live.publish_roster(elsewhere, urls)
    theirs = elsewhere.roster.read_bytes()
    with pytest.raises(SupersededError, match="has roster 2, made elsewhere"):
        await live.publish_roster(installation, urls)
    assert (await stored())[0] == theirs

    # A change that begins with the bus's roster has both.
    done = await procedures.rotate_role(installation, Role.NOTIFIER, urls, overlap_s=60, only="signing")
    assert "the bus has the new roster" in done
    assert (await stored())[0] == installation.roster.read_bytes()
    assert (load_roster(installation).version, load_roster(installation).policy_approvals) == (3, 2)

    # Two that were made of the same one: the second is refused.
    set_approvals(elsewhere, 1, by="other", now_ms=2)
    with pytest.raises(SupersededError, match="3, made elsewhere"):
        await live.publish_roster(elsewhere, urls)


async def test_what_is_changed_elsewhere_at_that_moment_is_not_taken_back(
    installation, elsewhere, secured, stored, monkeypatch
):
    urls = [secured.url]
    await live.publish_roster(installation, urls)
    set_approvals(installation, 2, by="one", now_ms=1)
    set_approvals(elsewhere, 2, by="other", now_ms=1)
    read = keyvalue.get

    async def late(bus, bucket, key):
        found = await read(bus, bucket, key)
        monkeypatch.setattr(keyvalue, "get", read)
        await live.publish_roster(elsewhere, urls)
        return found

    monkeypatch.setattr(keyvalue, "get", late)
    with pytest.raises(SupersededError, match="2, made elsewhere"):
        await live.publish_roster(installation, urls)
    assert (await stored())[0] == elsewhere.roster.read_bytes()
