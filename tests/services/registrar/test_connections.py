"""No identity holds more connections than its role may. On a real secure server."""

from __future__ import annotations

import nats.errors
import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.credentials.nkey import Kind
from attestream.credentials.token import reissued
from attestream.errors import BusError
from attestream.installation.bus_keys import load_seed, load_token
from attestream.installation.files import PUBLIC, replace
from devtools.bus_identities import connect_with, registrar_config
from devtools.pool import eventually
from devtools.secure_bus import agent_credentials, log_in, secure_installation, secure_server, user_credentials
from schemas import accounts
from schemas.roles import Role, grant
from services.registrar.connections import Connections
from services.registrar.service import serving

MOST = grant(Role.AGENT).connections


@pytest.fixture
async def system(installation, secured):
    bus = await connect_with(secured.url, installation.system_credentials)
    yield bus
    await bus.close()


@pytest.fixture
async def connections(system):
    made = Connections(system)
    assert await made.start()
    yield made
    await made.stop()


async def test_a_registrar_closes_the_oldest_connections_of_one_agent(installation, secured, tmp_path):
    bus = await connect_with(secured.url, installation.credentials(Role.REGISTRAR))
    await ensure_topology(await connect_with(secured.url, installation.credentials(Role.PROVISIONER)))
    greedy, other = agent_credentials(installation, "greedy"), agent_credentials(installation, "other")
    async with serving(bus, registrar_config(installation, tmp_path / "registrar.db")):
        bystanders = [await log_in(secured.url, other) for _ in range(MOST)]
        held = [await log_in(secured.url, greedy) for _ in range(MOST + 5)]
        await eventually(lambda: all(one.is_closed for one in held[:5]))
        assert all(one.is_connected for one in (*held[5:], *bystanders))


async def test_what_has_ended_makes_room(installation, secured, connections):
    credentials = agent_credentials(installation, "honest")
    for _ in range(3 * MOST):
        client = await log_in(secured.url, credentials)
        await client.close()
    await eventually(lambda: not connections._held)


async def test_what_was_there_before_counts_too(installation, secured, system, monkeypatch):
    """A registrar that starts, or was cut off from the bus, has not heard of it."""
    monkeypatch.setattr("services.registrar.connections._PAGE", 2)
    credentials = agent_credentials(installation, "greedy")
    held = [await log_in(secured.url, credentials) for _ in range(MOST + 4)]
    await Connections(system).look()
    await eventually(lambda: all(one.is_closed for one in held[:4]))
    assert all(one.is_connected for one in held[4:])


async def test_two_registrars_close_the_same_ones(installation, secured, connections, system):
    other = Connections(system)
    assert await other.start()
    credentials = agent_credentials(installation, "greedy")
    held = [await log_in(secured.url, credentials) for _ in range(MOST + 4)]
    await eventually(lambda: sum(one.is_closed for one in held) >= 4)
    await eventually(lambda: sum(map(len, connections._held.values())) == sum(map(len, other._held.values())) == MOST)
    assert [one.is_connected for one in held] == [False] * 4 + [True] * MOST
    await other.stop()


async def test_people_have_room_for_their_programs(installation, secured, connections):
    observer = user_credentials(installation, Role.OBSERVER, "siem")
    held = [await log_in(secured.url, observer) for _ in range(MOST + 5)]
    service = [await log_in(secured.url, installation.credentials(Role.VERIFIER)) for _ in range(MOST + 5)]
    await eventually(lambda: sum(map(len, connections._held.values())) == len(held))
    assert all(one.is_connected for one in (*held, *service))


async def test_an_account_that_is_full_lets_nobody_more_in_until_one_goes(tmp_path, monkeypatch):
    """The server's own bound, for all agents together, holds without a registrar."""
    monkeypatch.setitem(accounts._CONNECTIONS, Role.AGENT, 2)
    installation = secure_installation(tmp_path / "installation")
    server = secure_server(installation)
    server.start()
    try:
        first, second, third = (agent_credentials(installation, name) for name in "abc")
        client = await log_in(server.url, first)
        await log_in(server.url, second)
        with pytest.raises(nats.errors.Error, match="connections exceeded"):
            await log_in(server.url, third)
        # It is no refusal of the credentials: an agent goes on trying.
        with pytest.raises(BusError, match="connections exceeded"):
            await connect(BusSettings(urls=[server.url], credentials=third, connect_timeout_s=1))
        assert (await log_in(server.url, installation.credentials(Role.VERIFIER))).is_connected
        await client.close()

        async def gets_in():
            try:
                return (await log_in(server.url, third)).is_connected
            except nats.errors.Error:
                return False

        await eventually(gets_in)
    finally:
        server.kill()


async def test_a_bus_account_of_an_older_version_does_not_keep_a_registrar_from_its_work(tmp_path, caplog):
    installation = secure_installation(tmp_path / "installation")
    token = load_token(installation.system_token)
    (scope,) = token.nats["signing_keys"]
    template = {**scope["template"], "sub": {"allow": ["_INBOX_registrar.>"]}}
    signing = load_seed(installation.operator_signing_seed, Kind.OPERATOR, "key")
    older = reissued(token, {**token.nats, "signing_keys": [{**scope, "template": template}]}, signing, token.issued_at + 1)
    replace(installation.system_token, older.encode(), PUBLIC)
    server = secure_server(installation)
    server.start()
    try:
        system = await connect_with(server.url, installation.system_credentials)
        assert not await Connections(system).start()
        assert "keys refresh" in caplog.text
        await system.close()
    finally:
        server.kill()


def test_services_get_in_however_many_guests_there_are():
    assert sum(accounts.connections(guest) for guest in accounts.GUESTS) < accounts.SERVER_CONNECTIONS
    for guest in accounts.GUESTS:
        assert grant(guest).connections < accounts.connections(guest)
