"""Attestream as `attestream init` makes it: everybody has an identity on the bus, everything is signed, defaults otherwise.

TLS alone is off, as it is on a loopback interface: the processes are those of `attestream up`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from attestream.bus import keyvalue
from attestream.client import Client, connect, trusted
from attestream.embedded.orphan import die_with_parent
from attestream.embedded.stack import bus_environment, bus_server, children, provision
from attestream.installation.people import CREDENTIALS, ROOT, SIGNING_KEY
from bench.side import processes
from bench.stack import BenchError, until
from devtools.secure_bus import secure_installation
from schemas import topology
from schemas.base import decode
from schemas.commands import AddAgent, Attestation, Command, StartAgent, StopAgent, WorkerStatus

POLICY: Final = "image"
AT_ONCE: Final = 32
_WEBHOOK: Final = '\n[[notifier.webhooks]]\nname = "siem"\nurl = "{url}"\n'
_COMMAND_S: Final = 120.0


class Reading(NamedTuple):
    """Heartbeats of all workers and the CPU seconds used when the last of them was seen."""

    at: float
    attestations: int
    cpu: dict[str, float]
    """Process -> CPU seconds."""


class Ours:
    """A running installation; made by :func:`running`."""

    name = "attestream"

    def __init__(self, directory: Path, *, workers: int, webhook: str) -> None:
        self.place = secure_installation(directory)
        if webhook:
            with self.place.config_file.open("a", encoding="ascii") as file:
                file.write(_WEBHOOK.format(url=webhook))
        self.server = bus_server(self.place, port=0)
        self._commands = {child.name: child.argv for child in children(self.place, workers)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The administrator's."""
        assert self._client is not None
        return self._client

    @property
    def workers(self) -> list[str]:
        """Names of the verifier workers."""
        return [name for name in self._commands if name.startswith("verifier")]

    @property
    def pids(self) -> dict[str, int]:
        """Server process -> its id."""
        found = {name: process.pid for name, process in self._running.items() if process.poll() is None}
        assert self.server.pid is not None
        return found | {"nats-server": self.server.pid}

    def start(self, names: Iterable[str]) -> None:
        """Start services."""
        environment = os.environ | bus_environment(self.place, self.server)
        for name in names:
            with (self.place.directory / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    self._commands[name],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,  # noqa: PLW1509  # see there
                )

    def kill(self, names: Iterable[str]) -> None:
        """End services as a crash would."""
        for name in names:
            process = self._running.pop(name)
            process.kill()
            process.wait()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that each server process has used."""
        return {name: processes.cpu_seconds([pid]) for name, pid in self.pids.items()}

    def bytes(self) -> dict[str, int]:
        """Return the proportional set size of each server process."""
        return {name: processes.proportional_bytes([pid]) for name, pid in self.pids.items()}

    async def reading(self) -> Reading:
        """Return what the next heartbeat of the only worker says."""
        bucket = topology.WORKERS.name
        before = await keyvalue.entries(self.client.bus, bucket)
        deadline = time.monotonic() + 10
        while (found := await keyvalue.entries(self.client.bus, bucket)) == before:
            if time.monotonic() > deadline:
                raise BenchError("the worker has given no sign of life for 10 s")
            await asyncio.sleep(0.01)
        cpu = self.cpu()
        statuses = [decode(entry.value, WorkerStatus) for entry in found.values()]
        return Reading(time.monotonic(), sum(status.attestations for status in statuses), cpu)

    async def alive(self) -> list[WorkerStatus]:
        """Wait until every worker owns partitions, together all."""

        async def owned() -> bool:
            found = await self.client.workers()
            return len(found) == len(self.workers) and sum(len(status.partitions) for status in found) == 64

        await until(owned, "the workers own all partitions", pause_s=0.1)
        return await self.client.workers()

    async def add(self, agents: list[str], interval_ms: int, *, at_once: int) -> float:
        """Put agents under attestation, ``at_once`` at a time, and return the seconds that it took."""
        attestation = Attestation(policy=POLICY, interval_ms=interval_ms)

        def adding(agent_id: str) -> Command:
            return AddAgent(command_id=uuid.uuid4().hex, agent_id=agent_id, attestation=attestation)

        return await self._each(agents, adding, at_once)

    async def pause(self, agents: list[str]) -> None:
        """Stop attesting."""
        await self._each(agents, lambda agent_id: StopAgent(command_id=uuid.uuid4().hex, agent_id=agent_id), AT_ONCE)

    async def resume(self, agents: list[str]) -> None:
        """Attest again, from the beginning of the logs."""
        await self._each(agents, lambda agent_id: StartAgent(command_id=uuid.uuid4().hex, agent_id=agent_id), AT_ONCE)

    async def stop(self) -> None:
        """End all services, then the bus."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.server.stop()

    def tails(self) -> str:
        """Return the ends of the logs."""
        return "\n".join(file.read_text(errors="replace")[-1500:] for file in self.place.directory.glob("*.log"))

    async def _each(self, agents: list[str], made: Callable[[str], Command], at_once: int) -> float:
        pending = iter(agents)

        async def one_after_another() -> None:
            for agent_id in pending:
                await self.client.command(made(agent_id), timeout_s=_COMMAND_S)

        began = time.monotonic()
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return time.monotonic() - began

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have a client meanwhile."""
        own = self.place.operator("admin")
        trust = trusted(own / ROOT, signing_key=own / SIGNING_KEY)
        async with connect(self.server.local_url, trust=trust, credentials=own / CREDENTIALS) as client:
            self._client = client
            yield


@asynccontextmanager
async def running(directory: Path, *, workers: int, webhook: str) -> AsyncIterator[Ours]:
    """Install, start everything, and end it when the block does."""
    ours = Ours(directory, workers=workers, webhook=webhook)
    ours.server.start()
    try:
        await provision(ours.place, bus_environment(ours.place, ours.server))
        ours.start(ours._commands)
        async with ours.connected():
            await ours.alive()
            yield ours
    finally:
        await ours.stop()
