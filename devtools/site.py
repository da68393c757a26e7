"""A secure installation as real processes: bus servers with TLS and accounts, registrar, verifier workers and notifier.

Everybody shows credentials and everything is signed, as after `attestream init`. Each part can be killed, frozen and started
again by its name. The simulator and the chaos suite run against it.
"""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attestream import config
from attestream.bus import topology
from attestream.bus.connection import Bus, BusSettings, connect
from attestream.bus.encryption import Encryption
from attestream.bus.identity import Source
from attestream.client import Client, trusted
from attestream.client import connect as connect_client
from attestream.embedded.ports import free_port
from attestream.errors import BusError
from attestream.installation.bus_server import Server
from attestream.installation.live import publish_roster
from attestream.installation.making import initialise
from attestream.installation.people import CREDENTIALS, SIGNING_KEY
from attestream.installation.places import Installation
from devtools.bus_server import BusServer
from devtools.cluster import INTERPRETER, Service, toml
from schemas.roles import Role

_SPREAD_S: Final = 0.2
_PROVISION_ATTEMPTS: Final = 20
OPERATOR: Final = "admin"


class Host(NamedTuple):
    """A machine that parts of the installation run on."""

    address: str = "127.0.0.1"
    launcher: tuple[str, ...] = ()
    """What stands before a command that is to run there."""


class Site:
    """An installation below ``directory``, not started.

    :param servers: bus servers; three form a cluster with replicated streams.
    :param database: URL of the verifiers' database; default an SQLite file.
    :param sections: settings that override those of the installation's configuration file, by section.
    :param hosts: where parts run, in turn; default this machine.
    """

    def __init__(
        self,
        directory: Path,
        *,
        servers: int = 1,
        database: str = "",
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        hosts: Sequence[Host] = (Host(),),
    ) -> None:
        self.hosts = hosts
        self._sections = sections or {}
        self._database = database
        names = [f"bus-{number}" for number in range(1, servers + 1)]
        ports = [free_port() for _ in range(3 * servers)]
        members = []
        for index, name in enumerate(names):
            client, route, web = ports[3 * index : 3 * index + 3]
            address = self.host(index).address
            members.append(Server(name, address, client, route, web, address))
        # The installation's own directory is made by it.
        initialise(directory / "site", accept_ek="any", port=1, servers=members, operator=OPERATOR)
        self.place = Installation(directory / "site")
        self.urls = [member.url for member in members]
        self.replicas = max(1, servers)
        self.buses = {
            name: BusServer(self.place.servers / name, launcher=self.host(index).launcher)
            for index, name in enumerate(names)
        }
        self.services: dict[str, Service] = {}

    def host(self, number: int) -> Host:
        """Return the host of part ``number`` of a kind."""
        return self.hosts[number % len(self.hosts)]

    async def start_bus(self) -> None:
        """Start the servers, make the streams and put the roster there.

        :raises BusError: the servers do not become one bus in time.
        """
        for server in self.buses.values():
            server.start(wait=False)
        for server in self.buses.values():
            server.wait()
        loaded = config.load(self.place.config_file, {})
        for left in reversed(range(_PROVISION_ATTEMPTS)):
            try:
                await topology.provision(
                    loaded.bus.settings(str(Role.PROVISIONER)),
                    replicas=self.replicas,
                    sizes=loaded.limits.sizes(),
                    ages=loaded.retention.ages(),
                )
                break
            except BusError:  # a cluster that has just started has no leader yet
                if not left:
                    raise
        await publish_roster(self.place, self.urls)

    async def service(
        self, kind: str, name: str, *, host: Host | None = None, launcher: Sequence[str] = (), **settings: Any
    ) -> Service:
        """Start a service called ``name`` and wait until it is ready.

        :raises AssertionError: it does not become ready.
        """
        path = self.place.directory / f"{name}.toml"
        path.write_text(toml(self._configuration(kind, settings)), encoding="utf-8")
        where = (host or self.host(len(self.services))).launcher
        command = [*where, *(launcher or INTERPRETER)]
        service = Service(kind, name, path, self.place.directory / f"{name}.log", launcher=command)
        self.services[name] = service
        await service.restart()
        return service

    def _configuration(self, kind: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        sections: dict[str, dict[str, Any]] = tomllib.loads(self.place.config_file.read_text(encoding="utf-8"))
        sections["bus"] |= {"reconnect_spread_s": _SPREAD_S}
        if self._database:
            sections["verifier"]["database_url"] = self._database
        for section, values in self._sections.items():
            sections.setdefault(section, {}).update(values)
        sections.setdefault(kind, {}).update(settings)
        return sections

    def settings(self, name: str, *, role: Role | None = None, identity: Source | None = None) -> BusSettings:
        """Return the settings of a connection as ``role``, or with an identity of one's own."""
        return BusSettings(
            urls=self.urls,
            name=name,
            reconnect_spread_s=_SPREAD_S,
            credentials=self.place.credentials(role) if role is not None else None,
            identity=identity,
            encryption=Encryption(ca_file=self.place.ca_file),
        )

    async def connect(self, role: Role) -> Bus:
        """Return a connection with the credentials of a service."""
        return await connect(self.settings(str(role), role=role))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect as the person who may do everything."""
        person = self.place.operator(OPERATOR)
        async with connect_client(
            self.urls,
            trust=trusted(self.place.root_public, signing_key=person / SIGNING_KEY),
            credentials=person / CREDENTIALS,
            ca_file=self.place.ca_file,
            timeout_s=10.0,
        ) as client:
            client.places = self.place.directory / "places"
            yield client

    def close(self) -> None:
        """End every process."""
        for service in self.services.values():
            service.kill()
        for server in self.buses.values():
            server.kill()
