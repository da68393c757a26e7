"""The fleet simulator: thousands of agents in one process, each with a software TPM that signs real quotes.

``python -m bench.fleet SCENARIO`` plays a scenario (docs/fleet.md) against a secure installation of its own and compares
every agent's outcome with what it did; its exit code is 1 where they differ.

``python -m bench.fleet --installation DIRECTORY --url URL --agents N`` is the benchmark's: each agent has a connection and
an identity of its own, and the registrar's answers come from here too. Orders come as JSON lines on standard input, what
happens goes as JSON lines to standard output; the end of the input ends the fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from attestream.bus.connection import BusSettings, connect
from attestream.client import trusted
from attestream.clock import unix_ms
from attestream.credentials.document import Credentials
from attestream.installation.places import Installation
from devtools import ima_log
from devtools.crowd import Crowd, Member
from devtools.pool import digest_of
from devtools.secure_bus import agent_identities
from devtools.soft_agent import SoftAgent
from devtools.soft_fleet import SoftFleet
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas import subjects
from schemas.attestation import Challenge, ChangeNotice
from schemas.base import encode
from schemas.roles import Role

IMAGE_FILES: Final = 10_000
"""Files of the image that all agents run, as many as the policy has paths."""

POLL_S: Final = 0.05
"""How often a real agent looks at its IMA log: what a violation waits for before the notice."""

_LOOK_S: Final = 0.02
_SHOWN: Final = 20
_IDENTITY_S: Final = 24 * 3600
_OTHER_FILES: Final = 1_000
"""Open files of a process besides the agents' connections."""
_RSA_KEYS: Final = 4
"""RSA keys take 50 ms each to make: agents share a few. A worker neither knows nor gains by that."""


def image_path(number: int) -> str:
    """Return the path of file ``number`` of the image."""
    return f"/usr/lib/image/{number // 100:03d}/program-{number:05d}"


def agent_name(number: int) -> str:
    """Return the id of agent ``number``."""
    return f"agent-{number:06d}"


class Simulator(Crowd):
    """Agents that run ``entries`` programs of their image before each challenge."""

    def __init__(self, url: str, agents: Sequence[tuple[SoftAgent, Credentials]]) -> None:
        super().__init__(url, agents)
        self.entries = 0
        self._image: list[ima_log.Record] = []
        self._named = {member.agent.agent_id: member for member in self.members}
        self._issued: dict[str, int] = {}
        self._since = 0
        self._waiting: set[str] = set()

    def asked(self, member: Member, challenge: Challenge) -> None:
        """Let the agent live a little before it answers, and note when it was asked."""
        agent = member.agent
        for _ in range(self.entries):
            agent.measure(self._image[random.randrange(IMAGE_FILES)])
        self._issued[agent.agent_id] = challenge.issued_at
        if self._waiting and challenge.issued_at > self._since:
            self._waiting.discard(agent.agent_id)
            self._tell_when_all()

    def run_programs(self, entries: int) -> None:
        """Have ``entries`` programs of the image run before each challenge from now on."""
        if entries and not self._image:
            names = [image_path(number) for number in range(IMAGE_FILES)]
            self._image = [ima_log.record(name, digest_of(name)) for name in names]
        self.entries = entries

    def watch(self, agents: Sequence[str], since_ms: int) -> None:
        """Tell when each of ``agents`` has got a challenge that was issued later than ``since_ms``."""
        self._since = since_ms
        self._waiting = {agent for agent in agents if self._issued.get(agent, 0) <= since_ms}
        self._tell_when_all()

    async def violate(self, agent_id: str, *, notice: bool) -> None:
        """Run an unknown program on ``agent_id``; with ``notice`` tell the verifier when a real agent would see it."""
        member = self._named[agent_id]
        at = time.monotonic_ns()
        member.agent.run("/opt/intruder", secrets.token_bytes(32))
        tell(violated=agent_id, at=at)
        if notice:
            await asyncio.sleep(random.uniform(0, POLL_S))
            entries = len(member.agent.log)
            message = ChangeNotice(agent_id=agent_id, entries=entries, at=unix_ms())
            member.store(subjects.evidence(agent_id), encode(message), f"{agent_id}:change:{entries}")

    def _tell_when_all(self) -> None:
        if not self._waiting:
            tell(taken_over=time.monotonic_ns())


def make_agents(count: int, ak: str) -> list[SoftAgent]:
    """Return ``count`` agents that have booted."""
    keys = KeyPool(count if ak.startswith("p") else _RSA_KEYS)
    # Endorsement keys are not used here: one for all.
    endorsement = KeyPool(1)
    agents = []
    for number in range(count):
        name = agent_name(number)
        tpm = SoftTpm(ek="rsa2048", ak=ak, banks=("sha256",), keys=_Keys(endorsement, keys))
        agent = SoftAgent(name, tpm)
        agent.run("boot_aggregate", digest_of("boot_aggregate"))
        agents.append(agent)
    return agents


class _Keys(KeyPool):
    def __init__(self, endorsement: KeyPool, attestation: KeyPool) -> None:
        super().__init__(0)
        self._pools = {"ek": endorsement, "ak": attestation}

    def take(self, kind: str, use: str = "") -> Any:
        return self._pools[use].take(kind, use)


def tell(**what: Any) -> None:
    """Write a line for the driver."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def obey(fleet: Simulator) -> None:
    """Carry out orders until there are no more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    async for line in reader:
        match json.loads(line):
            case {"do": "news", "entries": entries}:
                fleet.run_programs(entries)
                tell(news=entries)
            case {"do": "violate", "agent": agent, "notice": notice}:
                task = asyncio.create_task(fleet.violate(agent, notice=notice))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            case {"do": "watch", "agents": agents, "since": since}:
                fleet.watch(agents, since)
            case {"do": "count"}:
                # Of two challenges that overlap the server lets an agent answer one: the next one asks again.
                tell(refused=[line for line in fleet.complaints if "_INBOX_verifier" not in line][:3])


async def main(place: Installation, url: str, count: int, ak: str) -> None:
    """Simulate ``count`` agents on the bus at ``url``."""
    allow_files(count)
    agents = make_agents(count, ak)
    async with registrar(place, url, agents):
        identities = agent_identities(place, [agent.agent_id for agent in agents], lifetime_s=_IDENTITY_S)
        fleet = Simulator(url, list(zip(agents, identities, strict=True)))
        await fleet.enter()
        while fleet.connected < count or fleet.unconfirmed:
            await asyncio.sleep(_LOOK_S)
        tell(ready=count)
        await obey(fleet)
        fleet.leave()


@asynccontextmanager
async def registrar(place: Installation, url: str, agents: Sequence[SoftAgent]) -> AsyncIterator[None]:
    """Answer who ``agents`` are, as the registrar does once they have enrolled."""
    bus = await connect(BusSettings(urls=[url], name="registrar", credentials=place.credentials(Role.REGISTRAR)))
    try:
        await trusted(place.root_public, signing_key=place.service_key(Role.REGISTRAR)).start(bus)
        await SoftFleet(bus, agents).serve_identities()
        yield
    finally:
        await bus.close()


def allow_files(connections: int) -> None:
    """Let this process have so many connections.

    :raises OSError: the system's limit (``ulimit -Hn``) is lower.
    """
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"this needs {wanted} open files, and the limit is {hard} (ulimit -Hn)")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def simulate(name: str, count: int, seed: int) -> int:
    """Play a scenario and say what came of it; return the exit code."""
    from devtools.fleet.play import play
    from devtools.fleet.scenario import load

    began = time.monotonic()

    def note(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:7.1f} s  {text}\n")
        sys.stdout.flush()

    scenario = load(name)
    note(f"{name}, seed {seed}: {scenario.doc}")
    outcome = await play(scenario, agents=count, seed=seed, tell=note)
    for what, number in outcome.counts.items():
        sys.stdout.write(f"{what:<24}{number:>10,}\n")
    for deviation in outcome.wrong[:_SHOWN]:
        sys.stdout.write(f"WRONG: {deviation}\n")
    note(f"{len(outcome.wrong)} deviations" if outcome.wrong else "every agent stands as it must, and the record agrees")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("scenario", nargs="?", help="a TOML file, or the name of a shipped one")
    parser.add_argument("--agents", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--installation", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--ak", default="rsa2048")
    arguments = parser.parse_args()
    if arguments.scenario:
        sys.exit(uvloop.run(simulate(arguments.scenario, arguments.agents, arguments.seed)))
    if not arguments.installation or not arguments.url or arguments.agents < 1:
        parser.error("a scenario is needed, or --installation, --url and --agents")
    uvloop.run(main(Installation(arguments.installation), arguments.url, arguments.agents, arguments.ak))
