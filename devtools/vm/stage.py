"""What attests the machine: bus and services on the loopback interface of this computer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attestream.embedded.nats import NatsServer
from attestream.embedded.stack import service_argv
from attestream.installation.configuration import INSECURE
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from devtools.demo.programs import Program, stop
from devtools.vm.machine import VirtualMachine
from devtools.vm.root_disk import STATE

AGENT_ID: Final = "vm"
INTERVAL_MS: Final = 5_000
LEASE_MS: Final = 60_000
_SERVICES: Final = ("registrar", "verifier", "notifier")
_SETTINGS: Final = {
    # An emulated processor takes its time, above all for the first quote after a boot.
    "ATTESTREAM_VERIFIER_CHALLENGE_TIMEOUT_MS": "30000",
    "ATTESTREAM_VERIFIER_LEASE_FLOOR_S": str(LEASE_MS // 1000),
    "PYTHONUNBUFFERED": "1",
}


class Stage:
    """Bus, services and the machine, in one directory; :meth:`close` ends all of it."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *, accelerator: str) -> None:
        self.logs = directory / "logs"
        self.logs.mkdir(mode=0o700)
        self.directory = directory
        self.place = Installation(directory / "installation")
        self.server = NatsServer(self.place.bus)
        self.machine = VirtualMachine(directory / "machine", self.logs, accelerator=accelerator)
        # Settings of the user's own installation have no say here.
        kept = {name: value for name, value in environment.items() if not name.startswith("ATTESTREAM_")}
        settings = {**kept, **_SETTINGS, **INSECURE, "ATTESTREAM_BUS_URLS": self.server.url}
        config = str(self.place.config_file)
        self._services = [
            Program(name, service_argv(name, config), settings, self.logs / f"{name}.log") for name in _SERVICES
        ]

    def start(self, *, boot_disk: Path, root_disk: Path) -> None:
        """Make keys, TPM and disks, and start bus and services.

        :raises AttestreamError: when something that is needed is not installed, or does not start.
        """
        initialise(self.place.directory, accept_ek="certificate", port=self.server.port)
        self.machine.manufacture(boot_disk=boot_disk, root_disk=root_disk)
        for certificate in self.machine.ca_certificates:
            shutil.copy(certificate, self.place.ek_store)
        self.server.start()
        for service in self._services:
            service.start()

    @property
    def agent_config(self) -> bytes:
        """The configuration of the machine's agent. QEMU's user network has this computer at 10.0.2.2."""
        return (
            f'[bus]\nurls = ["nats://10.0.2.2:{self.server.port}"]\nconnect_timeout_s = 30\n'
            f'[trust]\nunsigned = true\n[agent]\nid = "{AGENT_ID}"\ndata_dir = "{STATE}"\n'
        ).encode()

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
