"""The installation that the demonstration plays on, in one directory: bus, services and machines."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attestream.embedded.stack import bus_environment, bus_server, provision, service_argv
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from devtools.demo.machine import Machine
from devtools.demo.programs import Program, stop

MACHINES: Final = {"web": "rsa2048", "db": "p256", "build": "rsa2048"}
"""Name of each machine and the kind of its attestation key."""

WORKERS: Final = ("verifier-1", "verifier-2")

OPERATOR: Final = "admin"
"""Name of the person who gives the demonstration's commands."""

DEFAULT_PORT: Final = 4222
INTERVAL_MS: Final = 1_000
LEASE_MS: Final = 8_000
"""Long enough that another worker takes over before a result lapses: it is renewed at two thirds of this."""

_SETTINGS: Final = {
    "ATTESTREAM_REGISTRAR_ACCEPT_EK": "certificate",
    "ATTESTREAM_VERIFIER_LEASE_FLOOR_S": str(LEASE_MS // 1000),
    "PYTHONUNBUFFERED": "1",
}


class Stage:
    """Everything that the demonstration starts; :meth:`close` ends all of it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.logs.mkdir(mode=0o700)
        self.place = Installation(directory / "installation")
        # Before anything runs: the bus and every program are started with what is made here.
        initialise(self.place.directory, accept_ek="certificate", port=DEFAULT_PORT, operator=OPERATOR)
        self.server = bus_server(self.place, port=0)
        # Settings of the user's own installation have no say here.
        self._environment = {name: value for name, value in environment.items() if not name.startswith("ATTESTREAM_")}
        self._environment |= {**_SETTINGS, **bus_environment(self.place, self.server)}
        self.services = {name: self._service(name) for name in ("registrar", *WORKERS, "notifier")}
        self.machines = {name: self._machine(name, ak) for name, ak in MACHINES.items()}

    async def prepare(self) -> None:
        """Make the three TPMs with their certificates. Takes two or three seconds.

        :raises TpmError: when swtpm is not installed or can not make a TPM.
        """
        await asyncio.gather(*(asyncio.to_thread(machine.manufacture) for machine in self.machines.values()))
        for name, machine in self.machines.items():
            for certificate in machine.tpm.ca_certificates:
                shutil.copy(certificate, self.place.ek_store / f"{name}-{certificate.name}")

    async def start_services(self) -> None:
        """Start the bus, make its streams as the provisioner, and start the services.

        :raises BusError: when nats-server is not installed or does not start.
        """
        self.server.start()
        await provision(self.place, self._environment)
        for service in self.services.values():
            service.start()

    @property
    def accident(self) -> str:
        """Which program has ended that nobody has ended; empty when all is well."""
        if self.server.pid is None:
            return f"nats-server has ended by itself; its log: {self.server.log_path}"
        programs = [*self.services.values(), *(machine.agent for machine in self.machines.values())]
        return next((accident for program in programs if (accident := program.accident)), "")

    def close(self) -> None:
        """End every process that was started here, the bus and the TPMs last."""
        stop([*(machine.agent for machine in self.machines.values()), *self.services.values()])
        self.server.stop()
        for machine in self.machines.values():
            machine.shut_down()

    def _service(self, name: str) -> Program:
        environment = dict(self._environment)
        kind = name.partition("-")[0]
        if kind == "verifier":
            environment["ATTESTREAM_VERIFIER_WORKER_ID"] = name
        return Program(name, service_argv(kind, str(self.place.config_file)), environment, self.logs / f"{name}.log")

    def _machine(self, name: str, ak: str) -> Machine:
        return Machine(
            name,
            self.directory / "machines" / name,
            self.logs,
            self._environment,
            ak=ak,
            place=self.place,
        )
