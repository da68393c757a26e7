"""What is measured, as processes of their own: a nats-server, verifier workers, a notifier and the fleet simulator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attestream.bus import keyvalue
from attestream.client import Client, connect, new_command_id, trusted
from attestream.embedded.nats import NatsServer
from attestream.embedded.orphan import die_with_parent
from attestream.embedded.stack import bus_environment, bus_server, provision
from attestream.errors import AttestreamError
from attestream.installation.people import CREDENTIALS, ROOT, SIGNING_KEY
from attestream.installation.places import Installation
from bench.fleet import IMAGE_FILES, image_path
from bench.machine import cpu_seconds
from devtools.pool import allowing
from devtools.secure_bus import secure_installation
from schemas import subjects, topology
from schemas.base import Decoder
from schemas.commands import AddAgent, AgentStatus, AgentStatusPage, Attestation, WorkerStatus
from schemas.enrolment import AgentsQuery
from schemas.events import Standing

POLICY: Final = "image"
PATIENCE_S: Final = 60.0
_MAKING_S: Final = 180.0
_ADDING: Final = 256
_PAGE: Final = 500
_STATUS: Final = Decoder[WorkerStatus](WorkerStatus)


def attestation(interval_ms: int) -> Attestation:
    """Return how the agents of a measurement are attested."""
    return Attestation(policy=POLICY, interval_ms=interval_ms)


class BenchError(Exception):
    """A measurement that can not be trusted: something went wrong on the way."""


class Reading(NamedTuple):
    """A worker's heartbeat, and the CPU seconds that the processes had used when it arrived."""

    at: float
    """Seconds of the monotonic clock."""
    status: WorkerStatus
    cpu: dict[str, float]
    """Name of the process -> CPU seconds."""


class Program:
    """A child process with a log of its own."""

    def __init__(self, name: str, arguments: list[str], log: Path, environment: dict[str, str], **pipes: Any) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=os.environ | environment,
                stderr=file,
                stdout=pipes.get("stdout", file),
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                preexec_fn=die_with_parent,  # noqa: PLW1509  # see there
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Ask it to end in order."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End it in order and wait for that."""
        self.end()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


class Simulator(Program):
    """A process that simulates agents, takes orders as JSON lines, and tells what happens as such."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        super().__init__(name, arguments, log, {}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until there are agents."""
        self._reading = asyncio.create_task(self._read())
        await self.hear("ready", _MAKING_S)

    def order(self, **what: Any) -> None:
        """Give an order; see ``obey`` in the process's module."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()

    async def hear(self, key: str, timeout_s: float = PATIENCE_S) -> Any:
        """Return the next word that has ``key``; others are dropped.

        :raises BenchError: when it does not come in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    told = await self.told.get()
                    if key in told:
                        return told[key]
        except TimeoutError as error:
            raise BenchError(f"the fleet did not say {key!r} within {timeout_s:g} s") from error

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        assert self._process.stdout is not None
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        async for line in reader:
            self.told.put_nowait(json.loads(line))


class Stack:
    """A private installation as `attestream init` makes it: everybody has an identity, and everything is signed. As with
    `attestream up` the bus speaks without TLS on the loopback interface. ``settings`` override those of ``[verifier]``."""

    def __init__(self, place: Installation, server: NatsServer, client: Client, settings: dict[str, str]) -> None:
        self.place = place
        self.server = server
        self.client = client
        """The administrator's."""
        self.programs: dict[str, Program] = {}
        self._settings = settings

    def worker(self, name: str, **settings: str) -> Program:
        """Start a verifier worker."""
        named = {"worker_id": name} | self._settings | settings
        return self._service("verifier", name, {f"ATTESTREAM_VERIFIER_{key.upper()}": each for key, each in named.items()})

    def registrar(self) -> Program:
        """Start the registrar."""
        return self._service("registrar", "registrar", {})

    def notifier(self) -> Program:
        """Start the notifier."""
        return self._service("notifier", "notifier", {})

    async def fleet(self, agents: int, ak: str) -> Simulator:
        """Start the simulator of ``agents`` agents and wait until they listen."""
        return await self.simulator("bench.fleet", agents=agents, ak=ak)

    async def simulator(self, module: str, **options: Any) -> Simulator:
        """Start a simulator and wait until it is ready."""
        arguments = [module, "--installation", str(self.place.directory), "--url", self.server.url]
        for option, value in options.items():
            arguments += [f"--{option}", str(value)]
        name = module.rpartition(".")[2]
        fleet = Simulator(name, arguments, self.place.directory / f"{name}.log")
        self.programs[fleet.name] = fleet
        await fleet.ready()
        return fleet

    async def publish_policy(self) -> None:
        """Publish the policy of the image: 10,000 paths and the boot aggregate."""
        paths = [image_path(number) for number in range(IMAGE_FILES)]
        document = json.dumps(allowing("boot_aggregate", *paths)).encode()
        await self.client.push_policy(POLICY, document, timeout_s=PATIENCE_S)

    async def add(self, names: Sequence[str], attestation: Attestation) -> float:
        """Put agents under attestation; return how many a second that made."""
        began, left = time.monotonic(), iter(names)

        async def one_after_another() -> None:
            for name in left:
                command = AddAgent(command_id=new_command_id(), agent_id=name, attestation=attestation)
                await self.client.command(command, timeout_s=PATIENCE_S)

        await asyncio.gather(*(one_after_another() for _ in range(_ADDING)))
        return len(names) / (time.monotonic() - began)

    async def statuses(self) -> list[AgentStatus]:
        """Return the status of every agent."""
        found: list[AgentStatus] = []
        more = True
        while more:
            query = AgentsQuery(after=found[-1].agent_id if found else "", limit=_PAGE)
            subject = subjects.QUERY_VERIFIER_AGENTS
            page = await self.client.bus.request(subject, query, AgentStatusPage, timeout_s=PATIENCE_S)
            found += page.agents
            more = page.more
        return found

    async def settled(self, agents: int, *, attested: int = 1) -> None:
        """Wait until ``agents`` agents are trusted and have been attested so many times by whoever owns them now."""

        async def done() -> bool:
            statuses = await self.statuses()
            good = [status for status in statuses if status.standing is Standing.TRUSTED and status.attestations >= attested]
            return len(good) == agents

        await until(done, f"{agents} agents are trusted", pause_s=0.5)

    async def reading(self, worker: str) -> Reading:
        """Return the reading of ``worker``'s next heartbeat."""
        before = await self._heartbeat(worker)
        found: keyvalue.Entry | None = None

        async def beaten() -> bool:
            nonlocal found
            found = await self._heartbeat(worker)
            return found is not None and found != before

        await until(beaten, f"{worker} gives a sign of life", pause_s=0.01)
        assert found is not None
        assert self.server.pid is not None
        at = time.monotonic()
        cpu = {name: cpu_seconds(program.pid) for name, program in self.programs.items()}
        cpu |= {"nats-server": cpu_seconds(self.server.pid), "driver": cpu_seconds(os.getpid())}
        return Reading(at, _STATUS.decode(found.value), cpu)

    async def _heartbeat(self, worker: str) -> keyvalue.Entry | None:
        return (await keyvalue.entries(self.client.bus, topology.WORKERS.name, worker)).get(worker)

    def _service(self, kind: str, name: str, environment: dict[str, str]) -> Program:
        arguments = [f"services.{kind}", "--config", str(self.place.config_file)]
        settings = {"ATTESTREAM_LOG_LEVEL": "warning"} | bus_environment(self.place, self.server) | environment
        program = Program(name, arguments, self.place.directory / f"{name}.log", settings)
        self.programs[name] = program
        return program


@asynccontextmanager
async def stack(**settings: str) -> AsyncIterator[Stack]:
    """Set up an installation in a directory of its own, and take everything down at the end."""
    with tempfile.TemporaryDirectory(prefix="attestream-bench-") as name:
        place = secure_installation(Path(name))
        server = bus_server(place, port=0)
        server.start()
        try:
            await provision(place, bus_environment(place, server))
            own = place.operator("admin")
            trust = trusted(own / ROOT, signing_key=own / SIGNING_KEY)
            async with connect(server.url, trust=trust, credentials=own / CREDENTIALS, name="bench") as client:
                built = Stack(place, server, client, settings)
                try:
                    yield built
                except (AttestreamError, BenchError):
                    for program in built.programs.values():
                        sys.stderr.write(f"--- end of the log of {program.name}\n{program.tail()}\n")
                    raise
                finally:
                    for program in built.programs.values():
                        program.stop()
        finally:
            server.kill()


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, *, pause_s: float, timeout_s: float = PATIENCE_S
) -> None:
    """Wait until ``condition`` holds.

    :raises BenchError: when it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        held = condition()
        if await held if isinstance(held, Awaitable) else held:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"it did not happen within {timeout_s:g} s that {what}")
        await asyncio.sleep(pause_s)
