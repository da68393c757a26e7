"""Identities on the bus: issued for a proof, renewed in good standing, and ended by the record. On a real secure server."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import select

from attestream.clock import unix_ms
from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.credentials.account import EVERYBODY
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read, user_token
from attestream.database import migrate, open_engine, reading, transaction
from attestream.errors import AttestreamError, ConfigError, EnrolmentError, ExpiredError, ForbiddenError, SignatureError
from devtools.bus_identities import (
    activation,
    challenged,
    enrolled,
    put_on_record,
    registrar_config,
    renewed,
)
from devtools.pool import eventually
from devtools.secure_bus import secure_installation, secure_server
from schemas import subjects
from schemas.enrolment import DeleteIdentity, Enrolled
from schemas.events import EventKind
from schemas.roles import Role
from services.registrar import bus_keys, standing
from services.registrar.bus_account import BusAccount
from services.registrar.issuing import Registration
from services.registrar.revocations import Revocations
from services.registrar.service import serving
from services.registrar.tables import MIGRATIONS, bus_key, revocation

LIFETIME_S = 600


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return secure_installation(tmp_path_factory.mktemp("installation"))


@pytest.fixture
def server(installation, tmp_path):
    server = secure_server(installation)
    # The keys are those of all these tests, the streams and the accounts' tokens are this one's.
    server.extra = server.extra.replace(str(installation.bus), str(tmp_path / "bus"))
    server.store_dir = tmp_path / "bus"
    server.start()
    yield server
    server.kill()


@pytest.fixture
def secured(server):
    return server


@pytest.fixture
def config(installation, tmp_path):
    return registrar_config(installation, tmp_path / "registrar.db", lifetime_s=LIFETIME_S)


@pytest.fixture
async def enrolment(connected):
    return await connected(Role.ENROLMENT)


@pytest.fixture
async def verifier(connected):
    return await connected(Role.VERIFIER)


@pytest.fixture
async def bus(connected):
    return await connected(Role.REGISTRAR)


@pytest.fixture
async def engine(tmp_path):
    engine = open_engine(DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"))
    await migrate(engine, MIGRATIONS)
    yield engine
    await engine.dispose()


def user() -> NKey:
    return NKey.generate(Kind.USER)


async def lifted(engine, agent_id) -> bool:
    async with reading(engine) as connection:
        return not (await standing.kept(connection, agent_id)).blocked


async def registered(connection, agent_id, key, *, now, lifetime_s) -> int:
    (outcome,) = await bus_keys.register_all(connection, [(agent_id, key)], now=now, lifetime_s=lifetime_s)
    if isinstance(outcome, AttestreamError):
        raise outcome
    return outcome


async def test_a_failure_that_a_good_appraisal_ends_leaves_the_agent_where_it_can_be_asked(
    bus, config, connected, enrolment, verifier, make_agent
):
    keys = {name: user() for name in ("recovers", "stays-out")}
    async with serving(bus, config):
        mine = {}
        for name, key in keys.items():
            token = (await enrolled(enrolment, make_agent(name), key)).bus_token
            mine[name] = await connected(Credentials(token, key))
        await put_on_record(verifier, "recovers", EventKind.FAILED, recovery="automatic")
        await put_on_record(verifier, "stays-out", EventKind.FAILED, recovery="operator")
        await eventually(lambda: mine["stays-out"].nc.is_closed, 30)
        assert mine["recovers"].nc.is_connected
        assert read(await renewed(mine["recovers"], "recovers", keys["recovers"])).subject == keys["recovers"].public
        # Under another policy it is cut off as everybody.
        await put_on_record(verifier, "recovers", EventKind.FAILED, recovery="operator")
        await eventually(lambda: mine["recovers"].nc.is_closed, 30)


async def test_whole_life_of_an_identity(bus, config, connected, enrolment, verifier, make_agent, engine):
    agent, key = make_agent("host.one"), user()
    async with serving(bus, config):
        first = await enrolled(enrolment, agent, key)
        token = read(first.bus_token)
        assert (token.subject, token.name) == (key.public, "host%2Eone")
        assert token.expires_at - token.issued_at == LIFETIME_S
        mine = await connected(Credentials(first.bus_token, key))
        second = await renewed(mine, "host.one", key)
        assert read(second).subject == key.public

        await put_on_record(verifier, "host.one", EventKind.FAILED)
        await eventually(lambda: mine.nc.is_closed)
        for old in (first.bus_token, second):
            with pytest.raises(AttestreamError):
                await connected(Credentials(old, key))

        # The agent can not come back by itself, with this key or another.
        for again in (key, user()):
            refused = await enrolled(enrolment, agent, again)
            assert refused.bus_token == ""
            assert "failed" in refused.bus_refusal
            assert "attestream agents" in refused.bus_refusal

        # An operator lets it in; what was issued before stays void.
        await put_on_record(verifier, "host.one", EventKind.STARTED)
        await eventually(lambda: lifted(engine, "host.one"))
        fresh = (await enrolled(enrolment, agent, key)).bus_token
        assert (await connected(Credentials(fresh, key))).nc.is_connected
        with pytest.raises(AttestreamError):
            await connected(Credentials(first.bus_token, key))


async def test_what_fails_while_no_registrar_runs_is_cut_off_when_one_does(
    bus, config, connected, enrolment, verifier, make_agent
):
    agent, key = make_agent("a"), user()
    async with serving(bus, config):
        token = (await enrolled(enrolment, agent, key)).bus_token
    mine = await connected(Credentials(token, key))
    await put_on_record(verifier, "a", EventKind.FAILED)
    async with serving(await connected(Role.REGISTRAR), config):
        await eventually(lambda: mine.nc.is_closed)


async def test_renewal_is_refused_by_the_record_itself(bus, config, connected, enrolment, verifier, make_agent, engine):
    """The registrar's own following of the record may be behind."""
    agent, key = make_agent("a"), user()
    async with serving(bus, config) as registrar:
        token = (await enrolled(enrolment, agent, key)).bus_token
        mine = await connected(Credentials(token, key))
        await put_on_record(verifier, "a", EventKind.FAILED)
        issuer = registrar._issuer
        with pytest.raises(ForbiddenError, match="'failed'"):
            await issuer.issue("a", Registration(key.public, 1), outcome="renewed")
        await eventually(lambda: mine.nc.is_closed)


async def test_the_record_about_any_number_of_agents_is_read_whole(bus, config, verifier):
    """The server answers at most 1,024 events to one question; what it leaves out may be a failure."""
    names = [f"a{index}" for index in range(550)]
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(put_on_record(verifier, name, EventKind.ADDED))
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(put_on_record(verifier, name, EventKind.FAILED))
    decisions = await standing.all_on_record(bus, [*names, "nobody"])
    assert [decision.blocked for decision in decisions] == [True] * len(names) + [False]


async def test_deleted_agents_are_cut_off(bus, config, connected, enrolment, verifier, make_agent):
    keys = {name: user() for name in ("not-attested", "not-enrolled", "stays")}
    async with serving(bus, config) as registrar:
        buses = {}
        for name, key in keys.items():
            token = (await enrolled(enrolment, make_agent(name), key)).bus_token
            buses[name] = await connected(Credentials(token, key))
        await put_on_record(verifier, "not-attested", EventKind.DELETED)
        await registrar.delete(DeleteIdentity(agent_id="not-enrolled"))
        await eventually(lambda: buses["not-attested"].nc.is_closed and buses["not-enrolled"].nc.is_closed)
        assert buses["stays"].nc.is_connected
        assert await renewed(buses["stays"], "stays", keys["stays"])


async def test_key_that_was_swapped_on_the_way_gets_nothing(bus, config, enrolment, make_agent):
    """Whoever carries the messages can put another key in: the proof covers the request as the agent has made it."""
    agent, key, thief = make_agent("a"), user(), user()
    async with serving(bus, config):
        request = agent.enrol_request(bus_key=key.public)
        swapped = agent.enrol_request(request.nonce, bus_key=thief.public)
        challenge = await challenged(enrolment, swapped)
        activate = activation(agent, request, challenge, thief)
        with pytest.raises(EnrolmentError, match="proof is wrong"):
            await enrolment.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)


async def test_nobody_enrols_with_a_key_that_is_not_his(bus, config, enrolment, make_agent):
    """Else he would fail on purpose, and its holder were cut off."""
    key, other = user(), user()
    async with serving(bus, config):
        assert (await enrolled(enrolment, make_agent("victim"), key)).bus_token
        agent = make_agent("thief")
        request = agent.enrol_request(bus_key=key.public)
        challenge = await challenged(enrolment, request)
        activate = activation(agent, request, challenge, other)
        with pytest.raises(SignatureError):
            await enrolment.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)
        refused = await enrolled(enrolment, agent, key)
        assert "belongs to another agent" in refused.bus_refusal


async def test_token_is_worth_nothing_without_its_key(bus, config, connected, enrolment, make_agent):
    async with serving(bus, config):
        token = (await enrolled(enrolment, make_agent("a"), user())).bus_token
        with pytest.raises(AttestreamError):
            await connected(Credentials(token, user()))


async def test_renewals_that_are_refused(bus, config, connected, enrolment, make_agent):
    key, other, unknown = user(), user(), user()
    async with serving(bus, config):
        mine = await connected(Credentials((await enrolled(enrolment, make_agent("a"), key)).bus_token, key))
        assert (await enrolled(enrolment, make_agent("b"), other)).bus_token
        with pytest.raises(SignatureError):
            await renewed(mine, "a", key, signer=other)
        with pytest.raises(ForbiddenError):
            await renewed(mine, "a", unknown)
        with pytest.raises(ForbiddenError):
            await renewed(mine, "a", other)
        with pytest.raises(ExpiredError):
            await renewed(mine, "a", key, at=unix_ms() - 2 * 3_600_000)


async def test_expired_identity_gets_nobody_in(installation, server, connected):
    key, account = user(), read(installation.account_token(Role.AGENT).read_text().strip()).subject
    issuer = NKey.from_seed(installation.issuer(Role.AGENT).read_text().strip())
    now = int(time.time())
    token = user_token(issuer, key.public, "a", account=account, now=now - 9, expires_at=now - 1, tags=["role:agent"])
    with pytest.raises(ExpiredError):
        await connected(Credentials(token, key))


async def test_two_registrars_share_one_list(bus, config, connected, enrolment, verifier, make_agent):
    keys = {f"agent-{index}": user() for index in range(12)}
    async with serving(bus, config), serving(await connected(Role.REGISTRAR), config):
        buses = []
        for name, key in keys.items():
            token = (await enrolled(enrolment, make_agent(name), key)).bus_token
            buses.append(await connected(Credentials(token, key)))
        for name in keys:
            await put_on_record(verifier, name, EventKind.FAILED)
        await eventually(lambda: all(one.nc.is_closed for one in buses), 30)


class Clock:
    """Milliseconds that pass when they are told to."""

    def __init__(self):
        self.now = unix_ms()

    def __call__(self):
        return self.now


async def test_list_of_revocations_ends_with_what_it_revokes(installation, bus, config, connected, engine):
    clock, key = Clock(), user()
    system = await connected(installation.system_credentials)
    account = read(installation.account_token(Role.AGENT).read_text().strip()).subject
    operator = NKey.from_seed(installation.operator_signing_seed.read_text().strip())
    bus_account = BusAccount(system, account, lambda: operator, clock)
    revocations = Revocations(engine, bus, bus_account, lifetime_s=LIFETIME_S, clock=clock)
    now = clock.now // 1000
    async with transaction(engine) as connection:
        await bus_keys.begin(connection)
        await registered(connection, "a", key.public, now=now, lifetime_s=LIFETIME_S)
        assert await bus_keys.revoke(connection, ["a"], now=now) == {"a": [key.public]}
    await revocations.tell()
    await bus_account.look()
    assert set(bus_account._current.nats["revocations"]) == {key.public}
    clock.now += (2 * LIFETIME_S + 120) * 1000
    await revocations.tell(always=True)
    await revocations.sweep()
    await bus_account.look()
    assert not bus_account._current.nats.get("revocations")
    async with reading(engine) as connection:
        assert not (await connection.execute(select(bus_key))).all() + (await connection.execute(select(revocation))).all()


async def test_full_list_becomes_one_entry_for_everybody(engine, monkeypatch):
    monkeypatch.setattr(bus_keys, "MAX_REVOKED", 3)
    now = 1_000_000
    async with transaction(engine) as connection:
        await bus_keys.begin(connection)
        for index in range(5):
            await registered(connection, f"a{index}", user().public, now=now, lifetime_s=60)
        for index in range(4):
            await bus_keys.revoke(connection, [f"a{index}"], now=now)
        await bus_keys.bound(connection, now=now)
        entries = await bus_keys.entries(connection, now=now)
        assert set(entries) == {EVERYBODY}
        # Who is in good standing enrols again, and is dated after it.
        issued_at = await registered(connection, "a4", user().public, now=now, lifetime_s=60)
        assert issued_at > entries[EVERYBODY]


async def test_no_agent_fills_the_list_by_itself(engine):
    async with transaction(engine) as connection:
        await bus_keys.begin(connection)
        for _ in range(bus_keys.MAX_KEYS):
            await registered(connection, "a", user().public, now=100, lifetime_s=60)
        with pytest.raises(EnrolmentError, match="4 keys already"):
            await registered(connection, "a", user().public, now=100, lifetime_s=60)
        await registered(connection, "a", user().public, now=300, lifetime_s=60)


async def test_half_a_configuration_is_refused(bus, config, tmp_path):
    half = RegistrarConfig(database_url=config.database_url, accept_ek="any", agent_issuer_file=config.agent_issuer_file)
    with pytest.raises(ConfigError, match="operator_key_file"):
        async with serving(bus, half):
            pass
