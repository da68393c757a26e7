"""Who gets in, over what, and what those are told who do not."""

from __future__ import annotations

import asyncio
import ssl
import time

import pytest

from attestream.bus import stored
from attestream.bus.connection import BusSettings, connect
from attestream.bus.encryption import Encryption
from attestream.bus.topology import prepare
from attestream.embedded.nats import NatsServer
from attestream.errors import BusError, ConfigError, ExpiredError, ForbiddenError
from attestream.installation.authority import Authority
from attestream.installation.bus_server import encryption, identities, websocket
from devtools.secure_bus import agent_credentials, secure_installation, secure_server, user_credentials
from schemas import subjects
from schemas.enrolment import AgentQuery
from schemas.roles import Role


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return secure_installation(tmp_path_factory.mktemp("secure") / "installation")


@pytest.fixture
def server(installation, tmp_path):
    server = NatsServer(tmp_path / "bus", extra=identities(installation, tmp_path / "accounts"))
    server.start()
    yield server
    server.kill()


def settings(server, credentials=None, **changes) -> BusSettings:
    return BusSettings(**({"urls": [server.url], "credentials": credentials, "reconnect_spread_s": 0.05} | changes))


async def refused(kind, match, chosen):
    with pytest.raises(kind, match=match):
        await connect(chosen)


async def test_nobody_gets_in_without_credentials_that_hold(installation, server, tmp_path):
    await refused(ForbiddenError, "asks for credentials, and there are none", settings(server))
    expired = user_credentials(installation, Role.OBSERVER, "late", lifetime_s=-5)
    await refused(ExpiredError, "expired", settings(server, expired))
    stranger = secure_installation(tmp_path / "other").credentials(Role.VERIFIER)
    await refused(ForbiddenError, "refuses these credentials", settings(server, stranger))


async def test_credentials_that_others_may_read_are_not_used(installation, server, tmp_path):
    path = tmp_path / "open.creds"
    path.write_bytes(installation.credentials(Role.VERIFIER).read_bytes())
    path.chmod(0o640)
    await refused(ConfigError, "may be read by others", settings(server, path))
    path.chmod(0o600)
    path.write_text("no credentials")
    await refused(ConfigError, "can not be used", settings(server, path))
    await refused(ConfigError, "can not be read", settings(server, tmp_path / "absent"))


async def test_what_is_not_allowed_fails_at_once_and_is_counted(installation, server):
    bus = await connect(settings(server, agent_credentials(installation, "host.one")))
    assert bus.nc.new_inbox().startswith("_INBOX_agent.host%2Eone.")
    started = time.monotonic()
    with pytest.raises(ForbiddenError, match=r"publishing to att\.evidence.other"):
        await bus.publish_durable("att.evidence.other", b"x", message_id="1", timeout_s=60)
    with pytest.raises(ForbiddenError):
        await bus.request(subjects.QUERY_VERIFIER_AGENT, AgentQuery(agent_id="a"), AgentQuery, timeout_s=60)
    with pytest.raises(ForbiddenError):
        await stored.get_batch(bus, "RESULTS", {"multi_last": [">"]})

    async def ignore(_) -> None:
        pass

    with pytest.raises(ForbiddenError, match=r"listening to att\.agent.other.challenge"):
        await bus.subscribe("att.agent.other.challenge", ignore)
    await bus.subscribe("att.agent.host%2Eone.challenge", ignore)
    assert time.monotonic() - started < 15
    assert bus.violations.count == 4
    await bus.close()


async def test_renewed_credentials_are_used_at_the_next_connection(installation, server, eventually):
    path = agent_credentials(installation, "renewing", lifetime_s=3)
    bus = await connect(settings(server, path))
    agent_credentials(installation, "renewing", lifetime_s=3600)
    await bus.nc.force_reconnect()
    await eventually(lambda: bus.reconnects == 1)
    ends = time.time() + 4
    await eventually(lambda: time.time() > ends)
    assert bus.nc.is_connected
    # Those of another are not taken.
    path.write_bytes(installation.credentials(Role.VERIFIER).read_bytes())
    closed = asyncio.Event()

    async def noted() -> None:
        closed.set()

    bus.on_closed(noted)
    await bus.nc.force_reconnect()
    await asyncio.wait_for(closed.wait(), 40)
    await bus.close()


async def test_credentials_that_expire_end_the_connection_for_good(installation, server):
    bus = await connect(settings(server, agent_credentials(installation, "short", lifetime_s=2)))
    closed = asyncio.Event()

    async def noted() -> None:
        closed.set()

    bus.on_closed(noted)
    await asyncio.wait_for(closed.wait(), 40)
    with pytest.raises(BusError):
        await bus.publish("att.evidence.short", AgentQuery(agent_id="short"))
    await bus.close()


async def test_a_server_that_asks_nobody_is_not_the_one_that_was_meant(installation, nats_server):
    chosen = settings(nats_server, installation.credentials(Role.VERIFIER))
    await refused(BusError, "does not ask for credentials", chosen)


@pytest.fixture
def encrypted(installation, tmp_path):
    pair = Authority(installation.tls).server
    extra = "\n".join([encryption(pair, installation.ca_file), identities(installation, tmp_path / "accounts")])
    servers = [NatsServer(tmp_path / f"bus{i}", extra=extra.replace("/accounts", f"/accounts{i}")) for i in range(3)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


async def test_only_a_server_that_the_ca_vouches_for_is_believed(installation, encrypted, nats_server, tmp_path):
    port = encrypted[0].port
    credentials = installation.credentials(Role.NOTIFIER)
    own = Encryption(ca_file=installation.ca_file)
    bus = await connect(BusSettings(urls=[f"tls://127.0.0.1:{port}"], credentials=credentials, encryption=own))
    assert bus.nc._transport._io_writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    await bus.close()
    await refused(BusError, "can not be trusted", BusSettings(urls=[f"tls://127.0.0.1:{port}"], credentials=credentials))
    elsewhere = NatsServer(tmp_path / "elsewhere", host="127.0.0.2", extra=encrypted[0].extra)
    elsewhere.start()
    wrong = BusSettings(urls=[f"tls://127.0.0.2:{elsewhere.port}"], credentials=credentials, encryption=own)
    await refused(BusError, "can not be trusted: .*127", wrong)
    elsewhere.kill()
    plain = BusSettings(urls=[nats_server.url], encryption=own)
    await refused(BusError, "offers no TLS", plain)
    missing = Encryption(ca_file=tmp_path / "absent.pem")
    await refused(ConfigError, "can not be read", BusSettings(urls=[f"tls://127.0.0.1:{port}"], encryption=missing))


async def test_failover_among_three_servers_stays_encrypted(installation, encrypted, eventually):
    urls = [f"tls://127.0.0.1:{server.port}" for server in encrypted]
    bus = await connect(
        BusSettings(
            urls=urls,
            credentials=installation.credentials(Role.NOTIFIER),
            encryption=Encryption(ca_file=installation.ca_file),
            reconnect_spread_s=0.05,
        )
    )
    for lost in range(2):
        next(server for server in encrypted if server.port == bus.nc.connected_url.port).kill()
        await eventually(lambda lost=lost: bus.reconnects == lost + 1, 30)
        assert isinstance(bus.nc._transport._io_writer.get_extra_info("ssl_object"), ssl.SSLObject)
    await bus.close()


async def test_websocket_over_tls_and_back_after_a_crash(installation, tmp_path, eventually):
    base = secure_server(installation)
    pair = Authority(installation.tls).server
    port = NatsServer(tmp_path / "free").port
    extra = "\n".join(
        [websocket(pair, installation.ca_file, "127.0.0.1", port), identities(installation, tmp_path / "accounts")]
    )
    server = NatsServer(tmp_path / "ws", port=base.port, extra=extra)
    server.start()
    try:
        bus = await connect(
            BusSettings(
                urls=[f"wss://127.0.0.1:{port}"],
                credentials=installation.credentials(Role.PROVISIONER),
                encryption=Encryption(ca_file=installation.ca_file),
                reconnect_spread_s=0.05,
            )
        )
        await prepare(bus)
        server.kill()
        server.start()
        await eventually(lambda: bus.reconnects == 1, 30)
        await prepare(bus)
        await bus.close()
        untrusted = BusSettings(urls=[f"wss://127.0.0.1:{port}"], credentials=installation.credentials(Role.NOTIFIER))
        await refused(BusError, "can not be trusted", untrusted)
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("urls", "match"),
    [
        (["http://127.0.0.1:80"], "not how a bus is reached"),
        (["wss://a:443", "tls://b:4222"], "can not be mixed"),
        (["ws://127.0.0.1:80"], "not encrypted, although"),
    ],
)
async def test_urls_that_can_not_be_meant_are_refused(installation, urls, match):
    await refused(ConfigError, match, BusSettings(urls=urls, encryption=Encryption(ca_file=installation.ca_file)))


async def test_credentials_do_not_travel_in_the_clear(installation):
    chosen = BusSettings(urls=["nats://192.0.2.1:4222"], credentials=installation.credentials(Role.VERIFIER))
    await refused(ConfigError, "not encrypted and not on this machine", chosen)
