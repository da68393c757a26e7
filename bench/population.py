"""The agents of a secure installation, each on a connection of its own or all on one, and how punctually they are asked.

``python -m bench.population``: their process. Orders come as JSON lines on standard input, see :func:`obey`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from attestream.bus.connection import Bus, BusSettings
from attestream.clock import unix_ms
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.database import migrate, open_engine, transaction
from attestream.installation.places import Installation
from bench.fleet import agent_name, allow_files, tell
from bench.latency import quantile
from bench.machine import cpu_seconds
from devtools.crowd import Crowd, Member
from devtools.pool import digest_of
from devtools.secure_bus import agent_identities, everybody
from devtools.soft_agent import SoftAgent
from devtools.soft_fleet import SoftFleet
from devtools.soft_tpm import SoftTpm
from schemas.attestation import Challenge
from services.registrar import bus_keys, identities, tables

_IDENTITY_S: Final = 24 * 3600
_LOOK_S: Final = 0.01
_ROWS: Final = 1_000


class Punctuality:
    """When agents were challenged."""

    def __init__(self) -> None:
        self.asked = 0
        """Challenges so far."""
        self.first: dict[str, float] = {}
        """Agent -> when it was challenged first since :meth:`begin`, in seconds of the monotonic clock."""
        self._last: dict[str, float] = {}
        self._gaps: list[float] = []

    def note(self, agent_id: str) -> None:
        """``agent_id`` is challenged now."""
        now = time.monotonic()
        self.asked += 1
        before = self._last.get(agent_id)
        if before is not None:
            self._gaps.append(now - before)
        self._last[agent_id] = now
        self.first.setdefault(agent_id, now)

    def begin(self) -> None:
        """Forget what was, but for when each agent was challenged last."""
        self._gaps.clear()
        self.first.clear()

    def gap_s(self, share: float) -> float:
        """Return the time between two challenges of an agent that ``share`` of them kept."""
        return quantile(self._gaps, share)


class _Own(Crowd):
    def __init__(self, url: str, agents: Sequence[tuple[SoftAgent, Credentials]], seen: Punctuality) -> None:
        super().__init__(url, agents)
        self._seen = seen

    def asked(self, member: Member, challenge: Challenge) -> None:  # noqa: ARG002 - the crowd's signature
        self._seen.note(member.agent.agent_id)


class _Shared(SoftFleet):
    def __init__(self, bus: Bus, agents: Sequence[SoftAgent], seen: Punctuality) -> None:
        super().__init__(bus, agents)
        self._seen = seen

    async def asked(self, agent: SoftAgent, reply: str) -> None:  # noqa: ARG002 - the fleet's signature
        self._seen.note(agent.agent_id)


class Population:
    """``own`` agents with a connection and an identity each, and ``shared`` more for whom all share one connection."""

    def __init__(self, place: Installation, url: str, *, own: int, shared: int = 0) -> None:
        allow_files(own)
        self.seen = Punctuality()
        self._place, self._url = place, url
        self._agents = _agents(own + shared)
        self.names = [agent.agent_id for agent in self._agents]
        self.own = own
        self._identities = agent_identities(place, self.names[:own], lifetime_s=_IDENTITY_S)
        self._crowd = _Own(url, list(zip(self._agents, self._identities, strict=False)), self.seen)
        self._bus: Bus | None = None
        self._shared: _Shared | None = None
        # A collection that looks through fifty thousand agents takes seconds, in which none of them answers.
        gc.collect()
        gc.freeze()

    @property
    def failures(self) -> list[str]:
        """What the bus has refused."""
        return [*self._crowd.complaints, *(self._shared.failures if self._shared is not None else ())]

    async def enrol(self) -> None:
        """Have the registrar know all of them."""
        # Nobody asks for a renewal with those of the agents that share a connection.
        keys = [held.key.public for held in self._identities]
        keys += [NKey.generate(Kind.USER).public for _ in self._agents[self.own :]]
        await enrol(self._place, self._agents, keys)

    async def enter(self) -> float:
        """Connect those with connections of their own; return how many a second that made."""
        began = time.monotonic()
        await self._crowd.enter()
        while self._crowd.connected < self.own:
            await asyncio.sleep(_LOOK_S)
        rate = self.own / (time.monotonic() - began)
        while self._crowd.unconfirmed:
            await asyncio.sleep(_LOOK_S)
        return rate

    async def enter_together(self) -> None:
        """Connect all by one connection; those who had one of their own leave it."""
        self._bus = await everybody(self._place, BusSettings(urls=[self._url], name="everybody"))
        self._shared = _Shared(self._bus, self._agents[self.own :], self.seen)
        await self._shared.start()
        self._crowd.leave()
        self._shared.agents |= {agent.agent_id: agent for agent in self._agents[: self.own]}

    async def leave(self) -> None:
        """Disconnect everybody."""
        self._crowd.leave()
        if self._bus is not None:
            await self._bus.close()


async def enrol(place: Installation, agents: Sequence[SoftAgent], keys: Sequence[str]) -> None:
    """Put on the registrar's record what enrolments of ``agents`` with ``keys`` for the bus put there."""
    engine = open_engine(f"sqlite:///{place.directory}/registrar.db")
    now = unix_ms()
    try:
        await migrate(engine, tables.MIGRATIONS)
        for first in range(0, len(agents), _ROWS):
            part = slice(first, first + _ROWS)
            async with transaction(engine) as connection:
                await identities.record(connection, [(one.agent_id, _claims(one)) for one in agents[part]], now)
                wanted = [(one.agent_id, key) for one, key in zip(agents[part], keys[part], strict=True)]
                await bus_keys.register_all(connection, wanted, now=now // 1000, lifetime_s=_IDENTITY_S)
    finally:
        await engine.dispose()


def _agents(count: int) -> list[SoftAgent]:
    """Return agents that have booted, each with keys of its own."""
    agents = []
    for number in range(count):
        agent = SoftAgent(agent_name(number), SoftTpm(ek="p256", ak="p256", banks=("sha256",)))
        agent.run("boot_aggregate", digest_of("boot_aggregate"))
        agents.append(agent)
    return agents


def _claims(agent: SoftAgent) -> dict[str, Any]:
    return {
        "ek_public": agent.tpm.ek_public,
        "ek_certificate": b"",
        "ek_trust": "accepted",
        "findings": msgspec.msgpack.encode([]),
        "ak_public": agent.tpm.ak_public,
        "ak_name": agent.tpm.ak_name,
        "transport_key": agent.transport_key,
    }


async def obey(agents: Population) -> None:
    """Carry out orders until there are no more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    seen = agents.seen
    async for line in reader:
        match json.loads(line):
            case {"do": "enter"}:
                tell(entered=await agents.enter())
            case {"do": "share"}:
                await agents.enter_together()
                tell(shared=True)
            case {"do": "begin"}:
                seen.begin()
                tell(begun=True)
            case {"do": "spent", "of": processes}:
                cpu = {name: cpu_seconds(pid) for name, pid in processes.items()}
                tell(spent={"at": time.monotonic(), "attestations": seen.asked, "cpu": cpu})
            case {"do": "look"}:
                tell(seen=[len(seen.first), max(seen.first.values(), default=0.0)], failures=agents.failures[:3])
            case {"do": "gaps"}:
                tell(gaps=[seen.gap_s(0.5), seen.gap_s(0.99), seen.gap_s(1)])


async def main(place: Installation, url: str, own: int, shared: int) -> None:
    """Simulate agents on the bus at ``url``."""
    agents = Population(place, url, own=own, shared=shared)
    await agents.enrol()
    tell(ready=True)
    await obey(agents)
    await agents.leave()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.population", description=__doc__)
    parser.add_argument("--installation", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--own", type=int, required=True)
    parser.add_argument("--shared", type=int, default=0)
    told = parser.parse_args()
    uvloop.run(main(Installation(told.installation), told.url, told.own, told.shared))
