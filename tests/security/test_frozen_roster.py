"""A broker that keeps the newest roster back, so that a key which was revoked would go on counting: the roster grows old,
and nobody is believed by it any more."""

import time

import pytest

from attestream.bus import keyvalue
from attestream.bus.connection import BusSettings, connect
from attestream.bus.outcome import Fate, decide
from attestream.bus.stored import last_messages
from attestream.bus.trust import configured
from attestream.client import connect as connect_client
from attestream.client.standing import believed
from attestream.config import TrustConfig
from attestream.errors import BusError, ConfigError, StaleRosterError
from devtools.sample_result import sample_result
from schemas import subjects, topology
from schemas.base import encode
from schemas.commands import Outcome, StopAgent
from schemas.events import Revocation, Signed, Standing
from schemas.roles import Role
from services.agent.belief import by_roster

HOUR_MS = 3_600_000


def unix_ms():
    return int(time.time() * 1000)


class Later:
    """A clock that goes before the others: what is on the bus is old by it."""

    def __init__(self):
        self.ahead_ms = 0

    def __call__(self):
        return unix_ms() + self.ahead_ms


@pytest.fixture
def later():
    return Later()


@pytest.fixture
async def reader(nats_server, bus, keys, later):
    """Somebody who has the roster of the bus, which counts for an hour."""
    await keys.publish(bus)
    trust = keys.trust("otto", clock=later, max_age_ms=HOUR_MS)
    connection = await connect(BusSettings(urls=[nats_server.url]))
    await trust.start(connection, timeout_s=0.3)
    yield connection
    await connection.close()


async def ask(reader, keys):
    """Have a new result of the verifier believed."""
    subject, data = subjects.result("a"), encode(sample_result())
    signing = keys.trust("verifier")
    signing.take(keys.signed)
    return await reader.trust.author(subject, data, signing.sign(subject, data), unix_ms())


async def test_who_is_shown_an_old_roster_for_ever_ends_up_believing_nobody(reader, keys, later):
    """The verifier's key was revoked long ago; the broker shows the roster of before."""
    keys.revoke("verifier")
    assert (await ask(reader, keys)).name == "verifier"
    later.ahead_ms = HOUR_MS + 60_000
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)
    assert reader.trust.rejected == 1


async def test_a_new_reader_is_not_deceived_either(nats_server, bus, keys, later):
    await keys.publish(bus, vouched_by="registrar", at=unix_ms())
    later.ahead_ms = HOUR_MS + 60_000
    trust = keys.trust("otto", clock=later, max_age_ms=HOUR_MS)
    async with connect_client(nats_server.url, trust=trust, timeout_s=0.3) as client:
        subject, signing = subjects.result("a"), keys.trust("verifier")
        signing.take(keys.signed)
        message = sample_result()
        await bus.publish_durable(subject, message, message_id="1", headers=signing.sign(subject, encode(message)))
        with pytest.raises(StaleRosterError):
            await client.agent("a", timeout_s=0.3)
        with pytest.raises(StaleRosterError):
            await client.fleet(timeout_s=0.3)


async def test_the_registrars_word_keeps_a_roster_fresh(reader, bus, keys, later):
    later.ahead_ms = 10 * HOUR_MS
    await keys.publish(bus, vouched_by="registrar", at=later() - 60_000)
    assert (await ask(reader, keys)).role is Role.VERIFIER
    later.ahead_ms += HOUR_MS
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)


@pytest.mark.parametrize("name", ["verifier", "notifier", "alice"])
async def test_nobody_but_a_registrar_vouches_for_a_roster(reader, bus, keys, later, name):
    later.ahead_ms = 2 * HOUR_MS
    await keys.publish(bus, vouched_by=name, at=later())
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)


async def test_the_word_about_one_roster_is_none_about_another(reader, bus, keys, later):
    later.ahead_ms = 2 * HOUR_MS
    await keys.publish(bus, vouched_by="registrar", at=later())
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
    keys.revoke("olga")
    signature = {subjects.HEADER_SIGNATURE: entry.headers[subjects.HEADER_SIGNATURE]}
    await bus.publish_durable(entry.subject, keys.signed, message_id="x", headers=signature)
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)


async def test_a_registrar_whose_key_is_revoked_vouches_up_to_then_and_no_later(reader, bus, keys, later):
    keys.revoke("registrar")
    await keys.publish(bus, vouched_by="registrar", at=unix_ms() - 1000)
    later.ahead_ms = HOUR_MS + 60_000
    await keys.publish(bus, vouched_by="registrar", at=later())
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)


async def test_a_word_of_the_future_does_not_count(reader, bus, keys, later):
    await keys.publish(bus, vouched_by="registrar", at=unix_ms() + 5 * HOUR_MS)
    await reader.trust.refresh()
    later.ahead_ms = 2 * HOUR_MS
    with pytest.raises(StaleRosterError):
        await ask(reader, keys)


async def test_revocations_count_however_old_the_roster_is(reader, keys, later):
    """They take trust away: who holds the bus must not end them by keeping the roster back."""
    later.ahead_ms = 30 * HOUR_MS
    now = unix_ms()
    fields = {"standing": Standing.FAILED, "enrolment": 1, "policy": "p@1", "findings": []}
    signed = keys.signers["notifier"].sign(Revocation(id="a:1", agent_id="a", at=now, signed_at=now, **fields))
    assert isinstance(signed, Signed)
    assert (await by_roster(reader.trust)(signed, now)).id == "a:1"


async def test_what_can_not_be_judged_waits_and_is_not_given_up():
    assert issubclass(StaleRosterError, BusError)
    for deliveries in (1, 1000):
        assert decide(StaleRosterError("old"), deliveries, 5).fate is Fate.RETRY


async def test_results_are_an_error_and_not_merely_left_out(reader, bus, keys, later):
    later.ahead_ms = 2 * HOUR_MS
    signing, subject, message = keys.trust("verifier"), subjects.result("a"), sample_result()
    signing.take(keys.signed)
    await bus.publish_durable(subject, message, message_id="1", headers=signing.sign(subject, encode(message)))
    with pytest.raises(StaleRosterError):
        await believed(reader, await last_messages(reader, topology.RESULTS.name, [subject]))


async def test_who_has_given_a_command_is_told_why_its_outcome_is_not_believed(nats_server, bus, keys, later):
    await keys.publish(bus)
    later.ahead_ms = 2 * HOUR_MS
    signing = keys.trust("verifier")
    signing.take(keys.signed)

    async def execute(message):
        place = message.headers[subjects.HEADER_REPLY_TO]
        data = encode(Outcome(command_id="one", ok=True))
        await bus.nc.publish(place, data, headers=signing.sign(place, data))

    await bus.subscribe(subjects.COMMAND_IN, execute)
    await bus.nc.flush()
    trust = keys.trust("alice", clock=later, max_age_ms=HOUR_MS)
    async with connect_client(nats_server.url, trust=trust, timeout_s=0.3) as client:
        with pytest.raises(StaleRosterError):
            await client.command(StopAgent(command_id="one", agent_id="a"), timeout_s=30)


def test_the_limit_is_on_by_default_and_can_not_be_shorter_than_what_clocks_and_replicas_need(keys):
    assert TrustConfig().roster_max_age_s == 3600
    assert configured(TrustConfig(root_keys=[keys.root_file], roster_max_age_s=0), None, signs=False).checked
    with pytest.raises(ConfigError, match="roster_max_age_s"):
        configured(TrustConfig(root_keys=[keys.root_file], roster_max_age_s=60), None, signs=False)
