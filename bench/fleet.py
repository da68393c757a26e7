"""The fleet simulator: thousands of agents in one process, each with a software TPM that signs real quotes.

``python -m bench.fleet SCENARIO`` plays a scenario (docs/fleet.md) against a secure installation of its own and compares
every agent's outcome with what it did; its exit code is 1 where they differ.

``python -m bench.fleet --url URL --agents N`` is the benchmark's: orders come as JSON lines on standard input, what happens
goes as JSON lines to standard output; the end of the input ends the fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
from typing import Any, Final

import uvloop

from attestream.bus.connection import Bus, BusSettings, connect
from devtools import ima_log
from devtools.pool import digest_of
from devtools.soft_agent import SoftAgent
from devtools.soft_fleet import SoftFleet
from devtools.soft_tpm import KeyPool, SoftTpm

IMAGE_FILES: Final = 10_000
"""Files of the image that all agents run, as many as the policy has paths."""

POLL_S: Final = 0.05
"""How often a real agent looks at its IMA log: what a violation waits for before the notice."""

_SHOWN: Final = 20
_RSA_KEYS: Final = 4
"""RSA keys take 50 ms each to make: agents share a few. A worker neither knows nor gains by that."""


def image_path(number: int) -> str:
    """Return the path of file ``number`` of the image."""
    return f"/usr/lib/image/{number // 100:03d}/program-{number:05d}"


def agent_name(number: int) -> str:
    """Return the id of agent ``number``."""
    return f"agent-{number:06d}"


class Simulator(SoftFleet):
    """A fleet whose agents run ``entries`` programs of their image before each challenge."""

    def __init__(self, bus: Bus, agents: list[SoftAgent]) -> None:
        super().__init__(bus, agents)
        self.entries = 0
        self._image: list[ima_log.Record] = []
        self._asker: dict[str, str] = {}
        self._left = ""
        self._waiting: set[str] = set()

    async def asked(self, agent: SoftAgent, reply: str) -> None:
        """Let ``agent`` live a little before it answers, and note who asked."""
        # Answers leave one by one, as from machines of their own: a burst would be cheaper to receive.
        await asyncio.sleep(0)
        # A worker has one inbox; what follows differs from challenge to challenge.
        asker = ".".join(reply.split(".", 2)[:2])
        self._asker[agent.agent_id] = asker
        for _ in range(self.entries):
            agent.measure(self._image[random.randrange(IMAGE_FILES)])
        if self._waiting and asker != self._left:
            self._waiting.discard(agent.agent_id)
            if not self._waiting:
                tell(taken_over=time.monotonic_ns())

    def run_programs(self, entries: int) -> None:
        """Have ``entries`` programs of the image run before each challenge from now on."""
        if entries and not self._image:
            names = [image_path(number) for number in range(IMAGE_FILES)]
            self._image = [ima_log.record(name, digest_of(name)) for name in names]
        self.entries = entries

    def watch(self, agent_id: str) -> None:
        """Tell when every agent that is asked by whoever asks ``agent_id`` now has been asked by someone else."""
        self._left = self._asker[agent_id]
        self._waiting = {name for name, asker in self._asker.items() if asker == self._left}
        tell(watched=len(self._waiting))

    async def violate(self, agent_id: str, *, notice: bool) -> None:
        """Run an unknown program on ``agent_id``; with ``notice`` tell the verifier when a real agent would see it."""
        agent = self.agents[agent_id]
        at = time.monotonic_ns()
        agent.run("/opt/intruder", secrets.token_bytes(32))
        tell(violated=agent_id, at=at)
        if notice:
            await asyncio.sleep(random.uniform(0, POLL_S))
            await self.notice(agent_id)


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
            case {"do": "watch", "agent": agent}:
                fleet.watch(agent)
            case {"do": "count"}:
                tell(answered=fleet.answered, news=fleet.news, failures=fleet.failures[:3])


async def main(url: str, count: int, ak: str) -> None:
    """Simulate ``count`` agents on the bus at ``url``."""
    bus = await connect(BusSettings(urls=[url], name="fleet"))
    fleet = Simulator(bus, make_agents(count, ak))
    await fleet.start()
    await fleet.serve_identities()
    tell(ready=count)
    await obey(fleet)
    await bus.close()


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
    parser.add_argument("--url")
    parser.add_argument("--ak", default="rsa2048")
    arguments = parser.parse_args()
    if arguments.scenario:
        sys.exit(uvloop.run(simulate(arguments.scenario, arguments.agents, arguments.seed)))
    if not arguments.url or arguments.agents < 1:
        parser.error("a scenario is needed, or --url and --agents")
    uvloop.run(main(arguments.url, arguments.agents, arguments.ak))
