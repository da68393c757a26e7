"""The roster in the registrar's hands: who may hand one in, what goes on the record, and what an old request can not do."""

import contextlib

import pytest

from attestream.bus import keyvalue, stored
from attestream.clock import unix_ms
from attestream.config import LimitsConfig
from attestream.database import open_engine
from attestream.errors import ForbiddenError, SignatureError, StaleRosterError, SupersededError
from attestream.trust import roster as rosters
from devtools.pool import eventually
from devtools.roster_keys import RosterKeys
from schemas import subjects, topology
from schemas.base import decode, encode
from schemas.enrolment import AgentQuery, DeleteIdentity, Done, Identity
from schemas.events import Event, EventKind
from schemas.roles import Role
from services.registrar.roster import RosterKeeper
from services.registrar.service import serving

KINDS = (
    EventKind.KEY_ADDED,
    EventKind.KEY_REVOKED,
    EventKind.OPERATOR_ADDED,
    EventKind.OPERATOR_REVOKED,
    EventKind.ROSTER_ROOT,
    EventKind.ROSTER_APPROVALS,
)
SIGNED_BY = (Role.REGISTRAR,)


@pytest.fixture
async def registrar(as_holder, config):
    async with serving(await as_holder("registrar"), config, limits=LimitsConfig()) as running:
        yield running


async def on_record(bus):
    found = await stored.last_messages(bus, topology.EVENTS.name, [subjects.events_of_kind(kind) for kind in KINDS])
    return {(event.kind, event.detail): event for event in (decode(message.data, Event) for message in found)}


async def hand_in(holder, keys):
    signed = rosters.sign(keys.roster, keys.root)
    return await holder.request(subjects.REGISTRAR_ROSTER, signed, Done, sign=True, signed_by=SIGNED_BY)


async def test_every_key_of_the_roster_is_on_the_record(bus, registrar, keys):
    async def complete():
        return len(await on_record(bus)) == len(keys.roster.keys)

    await eventually(complete)
    found = await on_record(bus)
    assert found[EventKind.OPERATOR_ADDED, "admin alice"].agent_id == keys.signers["alice"].key_id
    assert (EventKind.KEY_ADDED, "verifier verifier") in found


async def test_a_change_is_published_and_recorded_with_who_asked(bus, registrar, keys, as_holder):
    alice = await as_holder("alice")
    keys.revoke("olga")
    keys.add("nora", Role.OBSERVER)
    assert await hand_in(alice, keys) == Done()
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
    assert entry.value == keys.signed

    async def recorded():
        found = await on_record(bus)
        return {(EventKind.OPERATOR_REVOKED, "operator olga"), (EventKind.OPERATOR_ADDED, "observer nora")} <= found.keys()

    await eventually(recorded)
    assert (await on_record(bus))[EventKind.OPERATOR_REVOKED, "operator olga"].actor == "alice"


async def test_a_change_that_another_has_written_is_recorded_too(bus, registrar, keys, as_holder):
    keys.revoke("olga")
    newcomer = keys.add("nora", Role.VERIFIER)
    await keys.publish(bus)
    # A key that the registrar does not know makes it read the roster at once.
    nora = await as_holder("nora")
    assert nora.trust.signer.key_id == newcomer.key_id

    async def recorded():
        with contextlib.suppress(ForbiddenError, SignatureError):
            await nora.request(subjects.REGISTRAR_DELETE, DeleteIdentity(agent_id="x"), Done, sign=True)
        return (EventKind.OPERATOR_REVOKED, "operator olga") in await on_record(bus)

    await eventually(recorded)


async def test_what_was_changed_while_nobody_listened_is_recorded_under_the_name_in_the_roster(bus, keys, as_holder, config):
    key_id = keys.signers["olga"].key_id
    keys.roster = rosters.revoke_key(keys.roster, key_id, unix_ms(), by="alice")
    keys.roster = rosters.require_approvals(keys.roster, 2, unix_ms(), by="bob")
    await keys.publish(bus)
    wanted = {(EventKind.OPERATOR_REVOKED, "operator olga"): "alice", (EventKind.ROSTER_APPROVALS, "2"): "bob"}

    async def recorded():
        found = await on_record(bus)
        return all(key in found and found[key].actor == actor for key, actor in wanted.items())

    async with serving(await as_holder("registrar"), config, limits=LimitsConfig()):
        await eventually(recorded)
        # Another change of the roster records the number no second time.
        keys.add("nora", Role.OBSERVER)
        await hand_in(await as_holder("alice"), keys)
        await eventually(lambda: added(bus, "observer nora"))
        stream = await stored.get_batch(
            bus,
            topology.EVENTS.name,
            {"seq": 1, "batch": 9, "next_by_subj": subjects.events_of_kind(EventKind.ROSTER_APPROVALS)},
        )
        assert len(stream.messages) == 1


async def added(bus, detail):
    return (EventKind.OPERATOR_ADDED, detail) in await on_record(bus)


async def test_that_a_root_key_has_given_its_place_to_another_is_on_the_record(bus, registrar, keys, as_holder):
    alice, former = await as_holder("alice"), keys.root.key_id
    new = keys.succeed_root()
    await hand_in(alice, keys)
    kept = (EventKind.ROSTER_ROOT, f"in the place of {former}")

    async def recorded():
        return (await on_record(bus)).get(kept)

    event = await eventually(recorded)
    assert (event.agent_id, event.actor) == (new.key_id, "alice")
    # The next roster must be by the new key.
    keys.revoke("otto")
    await hand_in(alice, keys)
    assert (await on_record(bus))[kept].id == event.id


async def test_only_an_admin_hands_in_a_roster_and_only_the_root_key_signs_one(bus, registrar, keys, as_holder, tmp_path):
    before = keys.signed
    alice, olga = await as_holder("alice"), await as_holder("olga")
    keys.add("mallory", Role.ADMIN)
    with pytest.raises(ForbiddenError):
        await hand_in(olga, keys)
    forged = RosterKeys(tmp_path / "forged")
    forged.add("mallory", Role.ADMIN)
    with pytest.raises(SignatureError):
        await hand_in(alice, forged)
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
    assert entry.value == before


async def test_an_older_roster_is_not_taken(bus, registrar, keys, as_holder):
    alice, older = await as_holder("alice"), keys.roster
    keys.revoke("olga")
    await hand_in(alice, keys)
    newest, keys.roster = keys.roster, older
    with pytest.raises(SupersededError):
        await hand_in(alice, keys)
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
    assert entry.value == encode(rosters.sign(newest, keys.root))


async def test_identities_and_events_bear_the_registrars_signature(bus, registrar, make_agent, enrol, as_holder):
    await enrol(make_agent("web-1"))
    verifier = await as_holder("verifier")
    query = AgentQuery(agent_id="web-1")
    assert (await verifier.request(subjects.QUERY_REGISTRAR_AGENT, query, Identity, signed_by=SIGNED_BY)).agent_id == "web-1"

    async def event():
        return await stored.last_messages(bus, topology.EVENTS.name, [subjects.event(EventKind.ENROLLED, "web-1")])

    (found,) = await eventually(event)
    assert (await verifier.trust.author_of(found)).name == "registrar"


async def test_a_deletion_is_authorised_recorded_and_of_no_use_later(bus, registrar, make_agent, enrol, as_holder):
    await enrol(make_agent("web-1"))
    olga, otto, request = await as_holder("olga"), await as_holder("otto"), DeleteIdentity(agent_id="web-1")
    for holder, error in ((otto, ForbiddenError), (bus, SignatureError)):
        with pytest.raises(error):
            await holder.request(subjects.REGISTRAR_DELETE, request, Done, sign=True)
    requests = []

    async def spy(message):
        requests.append(message)

    await bus.subscribe(subjects.REGISTRAR_DELETE, spy)
    await bus.nc.flush()
    await olga.request(subjects.REGISTRAR_DELETE, request, Done, sign=True, signed_by=SIGNED_BY)

    async def event():
        return await stored.last_messages(bus, topology.EVENTS.name, [subjects.event(EventKind.IDENTITY_DELETED, "web-1")])

    (found,) = await eventually(event)
    assert decode(found.data, Event).actor == "olga"
    await enrol(make_agent("web-1"))
    (old,) = await eventually(lambda: requests)
    await bus.nc.request(subjects.REGISTRAR_DELETE, old.data, headers=old.headers)
    assert (await registrar.identity(AgentQuery(agent_id="web-1"))).agent_id == "web-1"


async def test_a_kept_request_does_not_end_an_enrolment_that_was_made_since(bus, registrar, make_agent, enrol, as_holder):
    """Another replica has not seen the request before: the time of its signature decides."""
    olga = await as_holder("olga")
    request = DeleteIdentity(agent_id="web-1")
    headers = olga.trust.sign(subjects.REGISTRAR_DELETE, encode(request))
    await enrol(make_agent("web-1"))
    reply = await bus.nc.request(subjects.REGISTRAR_DELETE, encode(request), headers=headers)
    assert b"superseded" in reply.data
    assert (await registrar.identity(AgentQuery(agent_id="web-1"))).agent_id == "web-1"


async def test_a_registrar_vouches_for_the_roster_as_soon_as_it_runs(bus, registrar, keys):
    reader = keys.trust()
    reader.take(keys.signed)

    async def vouched():
        entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
        return reader.vouched_at(entry)

    assert abs(await eventually(vouched) - unix_ms()) < 60_000


async def test_a_registrar_from_which_the_bus_keeps_the_newest_roster_does_not_vouch_for_an_older_one(
    bus, as_holder, config, keys
):
    """Else a broker that keeps it from one of two registrars would freeze it for everybody, by the word of that one."""
    old = keys.signed
    async with serving(await as_holder("registrar"), config, limits=LimitsConfig()):
        keys.revoke("olga")
        assert await hand_in(await as_holder("alice"), keys) == Done()
    await keyvalue.put(bus, topology.CLUSTER.name, topology.KEY_ROSTER, old, expected=None)
    other = await as_holder("registrar")
    engine = open_engine(config.database_url)
    keeper = RosterKeeper(other, engine, unix_ms, lambda: None)
    try:
        with pytest.raises(StaleRosterError, match="another registrar"):
            await keeper.publish()
    finally:
        await engine.dispose()
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
    assert subjects.HEADER_SIGNATURE not in entry.headers
