"""Servers as an installation renders them: TLS, WebSocket, a cluster of three, and nobody without an identity."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import nats.errors
import pytest

from attestream.embedded.ports import free_port
from attestream.errors import ConfigError
from attestream.installation.authority import Authority
from attestream.installation.bus_keys import SERVICES, issue_system, write_credentials
from attestream.installation.bus_server import Server
from attestream.installation.making import initialise
from attestream.installation.people import CREDENTIALS
from attestream.installation.places import Installation
from attestream.installation.servers import make_servers
from devtools.bus_server import BusServer
from devtools.secure_bus import agent_credentials, log_in
from schemas.roles import TENANTS, Role

CREATE = "$JS.API.STREAM.CREATE.EVENTS"
STREAM = {"name": "EVENTS", "subjects": ["att.event.>"], "num_replicas": 3}


def loopback(name: str) -> Server:
    client, route, web = (free_port() for _ in range(3))
    return Server(name, "127.0.0.1", client, route, web, "127.0.0.1")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[tuple[Installation, Server, BusServer]]:
    server = loopback("bus-1")
    initialise(tmp_path / "i", accept_ek="any", port=1, servers=[server])
    place = Installation(tmp_path / "i")
    running = BusServer(place.servers / server.name)
    running.start()
    yield place, server, running
    running.kill()


def ca(place: Installation) -> Path:
    return place.tls / "ca.pem"


async def test_every_identity_gets_in_over_tls_and_nobody_else(one) -> None:
    place, server, _ = one
    files = [place.credentials(role) for role in SERVICES]
    files += [place.operator("admin") / CREDENTIALS, place.system_credentials, agent_credentials(place, "host.1")]
    for path in files:
        client = await log_in(server.url, path, ca=ca(place))
        assert client.is_connected, path
        await client.close()
    context = ssl.create_default_context(cafile=ca(place))
    with pytest.raises(nats.errors.Error):
        await nats.connect(server.url, tls=context, allow_reconnect=False, connect_timeout=30)


async def test_another_installations_identity_and_another_ca_are_refused(one, tmp_path: Path) -> None:
    place, server, _ = one
    initialise(tmp_path / "other", accept_ek="any", port=1)
    other = Installation(tmp_path / "other")
    with pytest.raises(nats.errors.Error):
        await log_in(server.url, other.credentials(Role.REGISTRAR), ca=ca(place))
    with pytest.raises((ssl.SSLError, nats.errors.Error)):
        await log_in(server.url, place.credentials(Role.REGISTRAR), ca=ca(other))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken_and_older_ones_are_not(one, version: ssl.TLSVersion) -> None:
    place, server, _ = one
    assert await spoken(place, server, version) == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    with pytest.raises(OSError), pytest.warns(DeprecationWarning, match="TLSv1_1"):
        await spoken(place, server, ssl.TLSVersion.TLSv1_1)


async def spoken(place: Installation, server: Server, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=ca(place))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = min(version, ssl.TLSVersion.TLSv1_2), version
    _, writer = await asyncio.open_connection("127.0.0.1", server.websocket_port, ssl=context)
    found = writer.get_extra_info("ssl_object").version()
    writer.close()
    return found


async def test_websocket_clients_come_in_over_tls(one) -> None:
    place, server, _ = one
    client = await log_in(f"wss://127.0.0.1:{server.websocket_port}", place.credentials(Role.VERIFIER), ca=ca(place))
    assert client.is_connected
    await client.close()


async def serial(place: Installation, port: int) -> str:
    context = ssl.create_default_context(cafile=ca(place))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    return found


async def test_a_renewed_certificate_is_taken_up_and_connections_stay(one) -> None:
    place, server, running = one
    client = await log_in(server.url, place.credentials(Role.PROVISIONER), ca=ca(place))
    before = await serial(place, server.websocket_port)
    pair = Authority(running.directory).server
    Authority(place.tls).issue(pair, server.name, ["127.0.0.1"], dt.datetime.now(dt.UTC), again=True)
    os.kill(running.pid, signal.SIGHUP)
    async with asyncio.timeout(60):
        while await serial(place, server.websocket_port) == before:
            await asyncio.sleep(0.02)
    assert client.is_connected
    assert client.stats["reconnects"] == 0
    answer = await client.request("$JS.API.STREAM.INFO.EVENTS", b"", timeout=30)
    assert b"stream not found" in answer.data
    await client.close()


async def test_a_cluster_of_three_forms_with_replicated_streams(tmp_path: Path) -> None:
    servers = [loopback(f"bus-{number}") for number in (1, 2, 3)]
    initialise(tmp_path / "i", accept_ek="any", port=1, servers=servers)
    place = Installation(tmp_path / "i")
    running = [BusServer(place.servers / server.name) for server in servers]
    try:
        for each in running:
            each.start(wait=False)
        for each in running:
            each.wait()
        client = await log_in(servers[0].url, place.credentials(Role.PROVISIONER), ca=ca(place))
        async with asyncio.timeout(60):
            while True:
                try:
                    answer = json.loads((await client.request(CREATE, json.dumps(STREAM).encode(), timeout=5)).data)
                except nats.errors.Error:
                    answer = {}
                if "config" in answer:
                    break
                await asyncio.sleep(0.1)
        assert answer["config"]["num_replicas"] == 3
        elsewhere = await log_in(servers[2].url, place.credentials(Role.PROVISIONER), ca=ca(place))
        for connection in (client, elsewhere):
            await connection.close()
    finally:
        for each in running:
            each.kill()


async def test_a_revoked_identity_stays_revoked_over_reloads_and_restarts(one) -> None:
    """The configuration holds the account as it was at first; what was pushed later must win."""
    from attestream.credentials.nkey import Kind
    from attestream.credentials.token import reissued
    from attestream.installation.bus_keys import load_seed, load_token

    place, server, running = one
    path = agent_credentials(place, "gone")
    doomed = await log_in(server.url, path, ca=ca(place))
    key = load_seed(place.operator_signing_seed, Kind.OPERATOR, "key")
    account = load_token(place.account_token(Role.AGENT))
    now = account.issued_at + 2
    revoked = reissued(account, {**account.nats, "revocations": {"*": now}}, key, now)
    system = await log_in(server.url, place.system_credentials, ca=ca(place))
    answer = await system.request("$SYS.REQ.CLAIMS.UPDATE", revoked.encode(), timeout=30)
    assert b'"code":200' in answer.data, answer.data
    async with asyncio.timeout(60):
        while not doomed.is_closed:
            await asyncio.sleep(0.01)
    os.kill(running.pid, signal.SIGHUP)
    async with asyncio.timeout(60):
        while "Reloaded server configuration" not in running.log.read_text():
            await asyncio.sleep(0.01)
    with pytest.raises(nats.errors.Error):
        await log_in(server.url, path, ca=ca(place))
    await system.close()
    running.kill()
    running.start()
    with pytest.raises(nats.errors.Error):
        await log_in(server.url, path, ca=ca(place))
    other = await log_in(server.url, place.credentials(Role.VERIFIER), ca=ca(place))
    await other.close()


def test_servers_are_never_overwritten_and_their_secrets_are_private(tmp_path: Path) -> None:
    initialise(tmp_path, accept_ek="any", port=1, servers=[loopback("a"), loopback("b"), loopback("c")])
    place = Installation(tmp_path)
    secrets = [*place.servers.glob("*/nats.conf"), *place.servers.glob("*/*.key"), *place.bus_keys.rglob("*.seed")]
    secrets += [*tmp_path.rglob("*.creds"), place.tls / "ca.key", place.tls / "server.key", place.root_key]
    assert len(secrets) > 20
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    before = (place.servers / "a" / "nats.conf").read_text()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        make_servers(place, [loopback("a")], dt.datetime.now(dt.UTC))
    assert (place.servers / "a" / "nats.conf").read_text() == before
    # The seeds of the root of both hierarchies are in no server's configuration.
    assert not any(path.read_text().strip() in before for path in place.bus_keys.rglob("*.seed"))


async def test_an_identity_of_the_bus_itself_changes_accounts_and_closes_connections_alone(one, tmp_path: Path) -> None:
    place, server, _ = one
    path = tmp_path / "spare.creds"
    write_credentials(issue_system(place, "spare", now=1), path)
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error))

    client = await log_in(server.url, path, ca=ca(place), error_cb=note)
    await client.publish("$SYS.REQ.SERVER.PING.SUBSZ", b"")
    await client.subscribe("$SYS.>")
    async with asyncio.timeout(60):
        while len(errors) < 2:
            await asyncio.sleep(0.01)
    assert all("permissions violation" in error.lower() for error in errors)
    await client.close()


def test_people_have_roles_of_people(tmp_path: Path) -> None:
    from attestream.installation.people import make_person
    from attestream.installation.roster import load_roster

    initialise(tmp_path, accept_ek="any", port=1, operator="ann")
    place = Installation(tmp_path)
    roster = load_roster(place)
    assert {(key.role, key.name) for key in roster.keys} == {
        (Role.REGISTRAR, "registrar"),
        (Role.VERIFIER, "verifier"),
        (Role.NOTIFIER, "notifier"),
        (Role.ADMIN, "ann"),
    }
    for role in set(Role) - set(TENANTS):
        with pytest.raises(ConfigError, match="not a role of people"):
            make_person(place, role, "eve", now_ms=1)
    for name in ("", "a.b", "../x", "a b", "x" * 65):
        with pytest.raises(ConfigError, match="can not be a name"):
            make_person(place, Role.OBSERVER, name, now_ms=1)
