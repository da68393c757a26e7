import logging
import time

import msgspec
import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.trust import Trust, configured
from attestream.clock import unix_ms
from attestream.config import TrustConfig
from attestream.errors import ConfigError, ExpiredError, ForbiddenError, SignatureError, TimedOutError
from attestream.signing import TrustedKeys
from attestream.trust import roster as rosters
from devtools.roster_keys import RosterKeys
from schemas import subjects, topology
from schemas.base import encode
from schemas.enrolment import AgentQuery, DeleteIdentity, Done
from schemas.events import Signed
from schemas.roles import Role

QUERY = AgentQuery(agent_id="a")


@pytest.fixture
def keys(tmp_path):
    return RosterKeys(tmp_path / "keys")


@pytest.fixture
async def connected(nats_server):
    made = []

    async def make(trust):
        other = await connect(BusSettings(urls=[nats_server.url]))
        made.append(other)
        await trust.start(other, timeout_s=0.2)
        return other

    yield make
    for each in made:
        await each.close()


async def test_a_service_without_root_keys_and_without_saying_so_does_not_start():
    with pytest.raises(ConfigError, match="root_keys"):
        configured(TrustConfig(), None)
    assert not configured(TrustConfig(unsigned=True), None).checked


async def test_a_service_without_a_key_to_sign_with_does_not_start(keys):
    with pytest.raises(ConfigError, match="signing_key_file"):
        configured(TrustConfig(root_keys=[keys.root_file]), None)


async def test_a_bus_without_a_roster_is_no_place_to_start(bus, keys):
    with pytest.raises(ConfigError, match="no roster"):
        await keys.trust("verifier").start(bus, timeout_s=0.1)


async def test_two_installations_can_not_share_a_bus_by_accident(bus, keys, tmp_path):
    await RosterKeys(tmp_path / "other", installation="other").publish(bus)
    with pytest.raises(ConfigError, match="another installation"):
        await keys.trust("verifier").start(bus)
    named = Trust(TrustedKeys.from_pems([keys.root.public_pem]), installation="third")
    await keys.publish(bus)
    with pytest.raises(ConfigError, match="third"):
        await named.start(bus)


async def test_a_key_that_the_roster_does_not_have_is_told_at_the_start(bus, keys, tmp_path):
    await keys.publish(bus)
    stranger = Trust(TrustedKeys.from_pems([keys.root.public_pem]), RosterKeys(tmp_path / "o").signers["verifier"])
    with pytest.raises(ConfigError, match="roster has no key"):
        await stranger.start(bus)


async def test_an_older_roster_is_refused_and_counted(keys, caplog):
    older, now = keys.signed, [unix_ms()]
    keys.revoke("olga")
    trust = keys.trust("verifier", clock=lambda: now[0])
    assert trust.take(keys.signed)
    now[0] += 61_000
    assert not trust.take(older)
    assert trust.rejected == 1
    assert [record.levelname for record in caplog.records if "older one" in record.message] == ["ERROR"]
    assert trust.keyring.entry(keys.signers["olga"].key_id).revoked_at


async def test_a_server_that_lags_behind_a_change_is_no_attack(keys, caplog):
    older = keys.signed
    keys.revoke("olga")
    trust = keys.trust("verifier")
    assert trust.take(keys.signed)
    assert not trust.take(older)
    assert trust.rejected == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert trust.keyring.entry(keys.signers["olga"].key_id).revoked_at


async def test_an_older_roster_is_refused_after_a_restart_too(bus, keys, tmp_path):
    older, file = keys.signed, tmp_path / "roster"
    keys.revoke("olga")
    await keys.publish(bus)
    first = keys.trust("verifier", file)
    await first.start(bus)
    await first.stop()
    await keyvalue.put(bus, topology.CLUSTER.name, topology.KEY_ROSTER, older, expected=None)
    second = keys.trust("verifier", file)
    await second.start(bus)
    await second.stop()
    assert second.keyring.version == keys.roster.version
    assert second.rejected == 1


async def test_two_rosters_of_one_version_are_refused(keys):
    trust, first = keys.trust(), keys.signed
    same_version = keys.roster
    keys.revoke("olga")
    trust.take(keys.signed)
    keys.roster = same_version
    keys.revoke("otto")
    with pytest.raises(SignatureError, match="two rosters"):
        trust.take(keys.signed)
    assert not trust.take(first)


async def test_an_unknown_key_makes_the_roster_be_read_again(bus, keys, connected):
    await keys.publish(bus)
    reader = await connected(keys.trust())
    writer_trust = keys.trust("verifier")
    writer_trust.take(keys.signed)
    keys.rotate("verifier")
    await keys.publish(bus)
    new = keys.trust("verifier")
    new.take(keys.signed)
    subject = subjects.result("a")
    now = int(time.time() * 1000)
    assert (await reader.trust.author(subject, b"x", new.sign(subject, b"x"), now)).name == "verifier"
    assert (await reader.trust.author(subject, b"x", writer_trust.sign(subject, b"x"), now)).name == "verifier"


async def test_the_wrong_role_is_not_believed(bus, keys, connected):
    await keys.publish(bus)
    trust = (await connected(keys.trust("registrar"))).trust
    now, subject = int(time.time() * 1000), subjects.result("a")
    with pytest.raises(ForbiddenError):
        await trust.author(subject, b"x", trust.sign(subject, b"x"), now)
    assert trust.rejected == 1


async def test_answers_are_the_registrars_or_they_are_errors(bus, keys, connected):
    await keys.publish(bus)
    registrar, asker = await connected(keys.trust("registrar")), await connected(keys.trust("verifier"))

    async def answer(_query):
        return Done()

    await registrar.serve("test.signed", "q", AgentQuery, answer, signed=True)
    assert await asker.request("test.signed", QUERY, Done, signed_by=(Role.REGISTRAR,)) == Done()
    with pytest.raises(ForbiddenError):
        await asker.request("test.signed", QUERY, Done, signed_by=(Role.VERIFIER,))
    await registrar.serve("test.bare", "q", AgentQuery, answer)
    with pytest.raises(SignatureError):
        await asker.request("test.bare", QUERY, Done, signed_by=(Role.REGISTRAR,))


async def test_an_old_answer_can_not_be_played_again(bus, keys, connected, eventually):
    """CVE-2022-1053: what the registrar said once must not stand for what it says now."""
    await keys.publish(bus)
    registrar, asker = await connected(keys.trust("registrar")), await connected(keys.trust("verifier"))
    heard = []

    async def answer(_query):
        return Done()

    async def spy(message):
        if subjects.HEADER_SIGNATURE in (message.headers or {}):
            heard.append(message)

    await bus.subscribe("_INBOX.>", spy)
    await bus.nc.flush()
    endpoint = await registrar.serve("test.old", "q", AgentQuery, answer, signed=True)
    await asker.request("test.old", QUERY, Done, signed_by=(Role.REGISTRAR,))
    await endpoint.stop()
    await eventually(lambda: heard)
    (old,) = heard

    async def replay(message):
        await bus.nc.publish(message.reply, old.data, headers=old.headers)

    await bus.subscribe("test.old", replay)
    await bus.nc.flush()
    with pytest.raises(SignatureError):
        await asker.request("test.old", QUERY, Done, signed_by=(Role.REGISTRAR,))


async def test_a_service_signs_no_answer_for_what_is_no_inbox(bus, keys, connected):
    await keys.publish(bus)
    registrar = await connected(keys.trust("registrar"))

    async def answer(_query):
        return Done()

    await registrar.serve("test.oracle", "q", AgentQuery, answer, signed=True)
    headers = {subjects.HEADER_REPLY_TO: subjects.event("enrolled", "a")}
    reply = await bus.nc.request("test.oracle", encode(QUERY), headers=headers)
    assert subjects.HEADER_SIGNATURE not in (reply.headers or {})


async def test_requests_are_authorised_by_role_and_answered_once(bus, keys, connected):
    await keys.publish(bus)
    registrar = await connected(keys.trust("registrar"))
    olga, otto = await connected(keys.trust("olga")), await connected(keys.trust("otto"))
    authors, requests = [], []

    async def handle(_request, author):
        authors.append(author.name)
        return Done()

    async def spy(message):
        requests.append(message)

    await bus.subscribe("test.delete", spy)
    await bus.nc.flush()
    await registrar.serve("test.delete", "q", DeleteIdentity, handle, signed=True, authorise=(Role.OPERATOR,))
    request = DeleteIdentity(agent_id="a")
    await olga.request("test.delete", request, Done, sign=True, signed_by=(Role.REGISTRAR,))
    with pytest.raises(ForbiddenError):
        await otto.request("test.delete", request, Done, sign=True, signed_by=(Role.REGISTRAR,))
    with pytest.raises(SignatureError):
        await olga.request("test.delete", request, Done, signed_by=(Role.REGISTRAR,))
    assert len(requests) >= 1
    again = requests[0]
    await bus.nc.request("test.delete", again.data, headers=again.headers)
    assert authors == ["olga"]


async def test_one_who_only_reads_has_nothing_to_sign_with(bus, keys, connected):
    await keys.publish(bus)
    reader = await connected(keys.trust())
    with pytest.raises(ConfigError, match="no key to sign"):
        await reader.publish_durable(subjects.command("a"), QUERY, message_id="x", sign=True)


async def test_what_is_verified_once_is_known(bus, keys, connected):
    await keys.publish(bus)
    trust = (await connected(keys.trust("verifier"))).trust
    subject, now = subjects.result("a"), int(time.time() * 1000)
    headers = trust.sign(subject, b"x")
    first = await trust.author(subject, b"x", headers, now)
    assert await trust.author(subject, b"x", headers, now) is first
    with pytest.raises(SignatureError):
        await trust.author(subject, b"y", headers, now)


async def test_what_is_known_is_refused_all_the_same_when_it_is_sent_again_later(bus, keys, connected):
    await keys.publish(bus)
    trust = keys.trust("verifier")
    await connected(trust)
    subject, now = subjects.result("a"), int(time.time() * 1000)
    headers = trust.sign(subject, b"x")
    assert (await trust.author(subject, b"x", headers, now)).role is Role.VERIFIER
    with pytest.raises(ExpiredError, match="sent again"):
        await trust.author(subject, b"x", headers, now + 600_000)


async def test_a_silent_service_is_no_signed_one(bus, keys, connected):
    await keys.publish(bus)
    asker = await connected(keys.trust())
    with pytest.raises(TimedOutError):
        await asker.request("test.nobody", QUERY, Done, signed_by=(Role.REGISTRAR,), timeout_s=0.5)


async def test_a_reader_follows_the_root_key_and_believes_the_former_no_more(bus, keys, connected, caplog):
    await keys.publish(bus)
    reader = (await connected(keys.trust())).trust
    former = keys.root
    keys.succeed_root()
    with caplog.at_level(logging.WARNING):
        assert reader.take(keys.signed)
    assert f"root key {former.key_id} has given its place to {keys.root.key_id}" in caplog.text
    keys.rotate("verifier")
    assert reader.take(keys.signed)
    thief = keys
    thief.root = former
    thief.add("mallory", Role.ADMIN)
    with pytest.raises(SignatureError, match="no root key that counts here"):
        reader.take(thief.signed)


async def test_who_was_away_while_a_root_key_came_and_its_voucher_went_goes_on_by_what_it_has_kept(bus, keys, tmp_path):
    file, pinned = tmp_path / "roster", TrustedKeys.from_pems([keys.root.public_pem])
    keys.succeed_root()
    await keys.publish(bus)
    first = Trust(pinned, roster_file=file)
    await first.start(bus)
    await first.stop()
    keys.roster = rosters.without_vouchers(keys.roster, keys.roster.vouchers, unix_ms())
    await keys.publish(bus)
    second = Trust(pinned, roster_file=file)
    await second.start(bus)
    await second.stop()
    assert second.keyring.version == keys.roster.version
    # Whoever has kept nothing and knows only the former key must be given the new one.
    with pytest.raises(ConfigError, match="another installation"):
        await Trust(pinned, roster_file=tmp_path / "nothing").start(bus)


async def test_vouchers_that_can_not_be_read_are_told_at_the_start_and_written_anew_later(keys, tmp_path):
    file = tmp_path / "roster"
    file.write_bytes(keys.signed)
    spoilt = tmp_path / "roster.vouchers"
    spoilt.write_bytes(b"\xc1")
    trust = keys.trust(roster_file=file)
    with pytest.raises(ConfigError, match=r"roster\.vouchers"):
        await trust.start(None)
    assert trust.take(keys.signed)
    keys.succeed_root()
    assert trust.take(keys.signed)
    assert trust.roster_bytes == file.read_bytes() == keys.signed
    assert msgspec.msgpack.decode(spoilt.read_bytes(), type=list[Signed]) == keys.roster.vouchers


async def test_who_is_given_another_root_key_by_hand_begins_anew(bus, keys, tmp_path, caplog):
    file = tmp_path / "roster"
    file.write_bytes(keys.signed)
    keys.succeed_root()
    await keys.publish(bus)
    trust = keys.trust(roster_file=file)
    with caplog.at_level(logging.WARNING):
        await trust.start(bus)
    await trust.stop()
    assert "is not used" in caplog.text
    assert file.read_bytes() == keys.signed
