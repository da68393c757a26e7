"""What attests the machine: bus and services on the loopback interface of this computer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attestream.embedded.nats import NatsServer
from attestream.embedded.stack import bus_environment, provision, service_argv
from attestream.installation.authority import Authority
from attestream.installation.bus_server import encryption, identities
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from devtools.demo.programs import Program, stop
from devtools.vm.machine import VirtualMachine
from devtools.vm.root_disk import CONFIG, STATE
from schemas.roles import Role

AGENT_ID: Final = "vm"
HOST: Final = "10.0.2.2"
"""This computer, in QEMU's user network."""
DEFAULT_PORT: Final = 4222
INTERVAL_MS: Final = 5_000
LEASE_MS: Final = 60_000
_SERVICES: Final = ("registrar", "verifier", "notifier")
_SETTINGS: Final = {
    # An emulated processor takes its time, above all for the first quote after a boot.
    "ATTESTREAM_VERIFIER_CHALLENGE_TIMEOUT_MS": "30000",
    "ATTESTREAM_VERIFIER_LEASE_FLOOR_S": str(LEASE_MS // 1000),
    "PYTHONUNBUFFERED": "1",
}
_AGENT: Final = """\
[bus]
urls = ["tls://{host}:{port}"]
ca_file = "ca.pem"
connect_timeout_s = 30

[trust]
root_keys = ["root.pem"]

[agent]
id = "{id}"
data_dir = "{state}"
enrolment_credentials = "enrolment.creds"
"""


class Stage:
    """Bus, services and the machine, in one directory; :meth:`close` ends all of it."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *, accelerator: str) -> None:
        self.logs = directory / "logs"
        self.logs.mkdir(mode=0o700)
        self.directory = directory
        self.place = Installation(directory / "installation")
        # Before anything runs: the bus and every program are started with what is made here.
        initialise(self.place.directory, accept_ek="certificate", port=DEFAULT_PORT, hosts=["127.0.0.1", HOST])
        self.server = _bus(self.place)
        self.machine = VirtualMachine(directory / "machine", self.logs, accelerator=accelerator)
        # Settings of the user's own installation have no say here.
        kept = {name: value for name, value in environment.items() if not name.startswith("ATTESTREAM_")}
        self._environment = {**kept, **_SETTINGS, **bus_environment(self.place, self.server)}
        config = str(self.place.config_file)
        self._services = [
            Program(name, service_argv(name, config), self._environment, self.logs / f"{name}.log") for name in _SERVICES
        ]

    async def start(self, *, boot_disk: Path, root_disk: Path) -> None:
        """Make TPM and disks, and start bus and services.

        :raises AttestreamError: when something that is needed is not installed, or does not start.
        """
        self.machine.manufacture(boot_disk=boot_disk, root_disk=root_disk)
        for certificate in self.machine.ca_certificates:
            shutil.copy(certificate, self.place.ek_store)
        self.server.start()
        await provision(self.place, self._environment)
        for service in self._services:
            service.start()

    @property
    def agent_files(self) -> dict[str, bytes]:
        """What the machine is given, by path: its agent's configuration, and what every new machine gets."""
        home = Path(CONFIG).parent
        given = {"ca.pem": self.place.ca_file, "root.pem": self.place.root_public}
        given["enrolment.creds"] = self.place.credentials(Role.ENROLMENT)
        return {
            CONFIG: _AGENT.format(host=HOST, port=self.server.port, id=AGENT_ID, state=STATE).encode(),
            **{str(home / name): path.read_bytes() for name, path in given.items()},
        }

    @property
    def accident(self) -> str:
        """Which program has ended that nobody has ended; empty when all is well."""
        if self.server.pid is None:
            return f"nats-server has ended by itself; its log: {self.server.log_path}"
        accidents = (service.accident for service in self._services)
        return next((accident for accident in accidents if accident), self.machine.accident)

    def close(self) -> None:
        """End everything that was started here."""
        self.machine.pull_the_plug()
        stop(self._services)
        self.server.stop()


def _bus(place: Installation) -> NatsServer:
    """Return the bus on the loopback interface, where QEMU's user network reaches it: with TLS, for the machine comes over a
    network."""
    parts = [encryption(Authority(place.tls).server, place.ca_file), identities(place, place.bus / "accounts")]
    return NatsServer(place.bus, extra="\n".join(parts), encrypted=True)
