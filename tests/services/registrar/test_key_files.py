"""Keys that are replaced under a running registrar, and a cluster whose servers come and go."""

from __future__ import annotations

import asyncio

import pytest

from attestream.bus.connection import connect
from attestream.bus.encryption import Encryption
from attestream.bus.settings import BusSettings
from attestream.bus.topology import ensure_topology
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.embedded.ports import free_port
from attestream.errors import AttestreamError, ConfigError
from attestream.installation.bus_server import Server
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from attestream.installation.procedures import rotate_role
from devtools.bus_identities import connect_with, enrolled, put_on_record, registrar_config
from devtools.bus_server import BusServer
from devtools.pool import eventually
from devtools.secure_bus import secure_installation, secure_server
from schemas.events import EventKind
from schemas.roles import Role
from services.registrar import revocations
from services.registrar.key_files import KeyFile
from services.registrar.service import serving


def write(path, key, mode=0o600):
    beside = path.with_suffix(".new")
    beside.write_text(f"{key.seed}\n")
    beside.chmod(mode)
    beside.replace(path)


def test_a_replaced_key_counts_at_once_and_one_that_can_not_be_used_does_not(tmp_path, caplog):
    path = tmp_path / "operator.seed"
    first, second = NKey.generate(Kind.OPERATOR), NKey.generate(Kind.OPERATOR)
    with pytest.raises(ConfigError):
        KeyFile(path, Kind.OPERATOR)
    write(path, first)
    held = KeyFile(path, Kind.OPERATOR)
    assert held().public == first.public
    write(path, second)
    assert held().public == second.public
    for damage in (
        lambda: write(path, NKey.generate(Kind.USER)),
        lambda: path.write_text("nothing"),
        lambda: write(path, first, mode=0o644),
        path.unlink,
    ):
        damage()
        # However many identities are issued meanwhile.
        for _ in range(3):
            assert held().public == second.public
    assert caplog.text.count("the last key goes on") == 4
    assert second.seed not in caplog.text
    write(path, first, mode=0o644)
    assert held().public == second.public
    path.chmod(0o600)
    assert held().public == first.public


async def test_the_key_that_issues_identities_is_rotated_under_a_running_registrar(tmp_path, make_agent):
    place = secure_installation(tmp_path / "installation")
    server = secure_server(place)
    server.start()
    made = []

    async def connected(who):
        made.append(await connect_with(server.url, place.credentials(who) if isinstance(who, Role) else who))
        return made[-1]

    try:
        await ensure_topology(await connected(Role.PROVISIONER))
        enrolment, verifier = await connected(Role.ENROLMENT), await connected(Role.VERIFIER)
        keys = [NKey.generate(Kind.USER) for _ in range(3)]
        async with serving(await connected(Role.REGISTRAR), registrar_config(place, tmp_path / "registrar.db")):
            before = await connected(Credentials((await enrolled(enrolment, make_agent("a0"), keys[0])).bus_token, keys[0]))
            await rotate_role(place, Role.AGENT, [server.url], overlap_s=600)
            after = await connected(Credentials((await enrolled(enrolment, make_agent("a1"), keys[1])).bus_token, keys[1]))
            # The registrar's next change of the account must not take the new key out of it.
            await put_on_record(verifier, "a0", EventKind.FAILED)
            await eventually(lambda: before.nc.is_closed, 30)
            assert after.nc.is_connected
            token = (await enrolled(enrolment, make_agent("a2"), keys[2])).bus_token
            assert (await connected(Credentials(token, keys[2]))).nc.is_connected
    finally:
        for bus in made:
            await bus.close()
        server.kill()


async def _provisioned(bus):
    try:
        await ensure_topology(bus, replicas=3)
    except AttestreamError:
        # The cluster has not chosen its leader yet.
        return False
    return True


def loopback(name):
    client, route, web = (free_port() for _ in range(3))
    return Server(name, "127.0.0.1", client, route, web, "127.0.0.1")


class Cluster:
    """An installation with three servers, and connections to them."""

    def __init__(self, directory):
        self.servers = [loopback(f"bus-{number}") for number in (1, 2, 3)]
        initialise(directory, accept_ek="any", port=1, servers=self.servers)
        self.place = Installation(directory)
        self.running = [BusServer(self.place.servers / server.name) for server in self.servers]
        self._made = []

    async def connected(self, who, *places):
        """Connect as a role, or with credentials; to any server, or to those at ``places``."""
        settings = BusSettings(
            urls=[self.servers[place].url for place in places or range(3)],
            name="test",
            credentials=self.place.credentials(who) if isinstance(who, Role) else None,
            identity=(lambda: who) if isinstance(who, Credentials) else None,
            encryption=Encryption(ca_file=self.place.tls / "ca.pem"),
            reconnect_spread_s=0.1,
        )
        self._made.append(await connect(settings))
        return self._made[-1]

    async def lets_in(self, who, place):
        """Return whether the server at ``place`` takes a connection."""
        try:
            bus = await self.connected(who, place)
        except AttestreamError:
            return False
        await bus.close()
        return True

    async def start(self):
        for each in self.running:
            each.start(wait=False)
        for each in self.running:
            each.wait()
        provisioner = await self.connected(Role.PROVISIONER)
        await eventually(lambda: _provisioned(provisioner), 60)

    async def close(self):
        for bus in self._made:
            await bus.close()
        for each in self.running:
            each.kill()


@pytest.fixture
async def cluster(tmp_path):
    made = Cluster(tmp_path / "i")
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_a_server_that_was_away_lets_a_revoked_identity_in_no_more(cluster, tmp_path, make_agent, monkeypatch):
    """It has the account's token from before, and its neighbours do not give it the newer one soon."""
    monkeypatch.setattr(revocations, "COMPARE_S", 0.5)
    monkeypatch.setattr(revocations, "LOOK_AGAIN_S", 0.5)
    enrolment, verifier = await cluster.connected(Role.ENROLMENT), await cluster.connected(Role.VERIFIER)
    config = registrar_config(cluster.place, tmp_path / "registrar.db")
    async with serving(await cluster.connected(Role.REGISTRAR, 0, 1), config):
        key = NKey.generate(Kind.USER)
        who = Credentials((await enrolled(enrolment, make_agent("a"), key)).bus_token, key)
        mine = await cluster.connected(who, 0, 1)
        assert await cluster.lets_in(who, 2)
        cluster.running[2].kill()
        await put_on_record(verifier, "a", EventKind.FAILED)
        await eventually(lambda: mine.nc.is_closed, 60)
        cluster.running[2].start()
        async with asyncio.timeout(60):
            while not await cluster.lets_in(Role.ENROLMENT, 2) or await cluster.lets_in(who, 2):
                await asyncio.sleep(0.1)
