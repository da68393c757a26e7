"""``python -m bench.side.attesters``: all machines, in one process, with both faces.

To Attestream each is an agent that enrolled with the registrar and has a connection and an identity of its own on the bus;
to the incumbent each is an HTTPS server. Orders come as JSON lines on standard input, what happened goes to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any, Final

import uvloop

from attestream.bus.connection import Bus
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.installation.places import Installation
from bench.side.agent_api import serve, server_context
from bench.side.attester import Attester, make_attesters
from bench.stack import BenchError
from devtools.bus_identities import connect_with, enrolled
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import Decoder, encode
from schemas.roles import Role

AT_ONCE: Final = 16
_REMEMBERED: Final = 64
"""Quotes of an agent whose times are kept."""
_CHALLENGE: Final = Decoder[Challenge](Challenge)


def tell(**what: Any) -> None:
    """Write a line for the driver."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _some() -> deque[int]:
    return deque(maxlen=_REMEMBERED)


class Machines:
    """The attesters, and who asked them when."""

    def __init__(self, attesters: list[Attester]) -> None:
        self.attesters = attesters
        self.entries = 0
        """Programs that a machine runs before each time that it is asked."""
        self.asked: Counter[str] = Counter()
        """Side -> quotes."""
        self._when: dict[str, dict[str, deque[int]]] = {side: defaultdict(_some) for side in ("ours", "theirs")}
        self._buses: list[Bus] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, side: str, agent: Attester) -> None:
        """Let ``agent`` live a little before it answers, and note who asked."""
        agent.run_programs(self.entries)
        self.asked[side] += 1
        self._when[side][agent.agent_id].append(time.monotonic_ns())

    def since(self, side: str, at: int) -> dict[str, int]:
        """Return the agents that ``side`` has asked since ``at`` (ns), and when first."""
        found = {name: next((one for one in times if one >= at), 0) for name, times in self._when[side].items()}
        return {name: first for name, first in found.items() if first}

    async def join(self, place: Installation, url: str) -> None:
        """Enrol all with the registrar, and listen for challenges, each on a connection of its own."""
        entrance = await connect_with(url, place.credentials(Role.ENROLMENT))
        for first in range(0, len(self.attesters), AT_ONCE):
            some = self.attesters[first : first + AT_ONCE]
            await asyncio.gather(*(self._join(agent, entrance, url) for agent in some))
        await entrance.close()

    async def open(self, first_port: int, pair: Path, verifier_ca: Path) -> None:
        """Listen for the incumbent, each agent on the port after that of the one before."""
        context = server_context(pair, verifier_ca)
        for number, agent in enumerate(self.attesters):
            await serve(agent, first_port + number, context, lambda asked: self.note("theirs", asked))

    async def _join(self, agent: Attester, entrance: Bus, url: str) -> None:
        key = NKey.generate(Kind.USER)
        identity = await enrolled(entrance, agent, key)
        if not identity.bus_token:
            raise BenchError(f"no identity was issued: {identity.bus_refusal}")
        agent.enrolment = identity.enrolment
        bus = await connect_with(url, Credentials(identity.bus_token, key))
        self._buses.append(bus)

        async def challenged(message: Any) -> None:
            self.note("ours", agent)
            evidence = agent.answer(_CHALLENGE.decode(message.data))
            if not agent.is_news(evidence):
                await bus.nc.publish(message.reply, encode(evidence))
                return
            message_id = f"{agent.agent_id}:{evidence.enrolment}:{evidence.seq}"
            sending = bus.publish_durable(subjects.evidence(agent.agent_id), evidence, message_id=message_id)
            task = asyncio.ensure_future(_sent(sending))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        await bus.nc.subscribe(subjects.challenge_of(agent.agent_id), cb=challenged)
        await bus.nc.flush()


async def _sent(sending: Any) -> None:
    await sending


async def obey(machines: Machines) -> None:
    """Carry out orders until there are no more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        match json.loads(line):
            case {"do": "live", "entries": entries}:
                machines.entries = entries
                tell(live=entries)
            case {"do": "count"}:
                tell(count=dict(machines.asked), at=time.monotonic_ns())
            case {"do": "misbehave", "agent": number}:
                at = time.monotonic_ns()
                machines.attesters[number].misbehave()
                tell(misbehaved=machines.attesters[number].agent_id, at=at)
            case {"do": "since", "side": side, "at": at}:
                tell(since=machines.since(side, at))


async def main(arguments: argparse.Namespace) -> None:
    """Make the machines, connect them to both sides, and obey."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    machines = Machines(make_attesters(arguments.agents, arguments.ak, files=arguments.files))
    await machines.join(Installation(arguments.installation), arguments.url)
    await machines.open(arguments.port, arguments.pair, arguments.verifier_ca)
    for agent in machines.attesters:
        tell(key=agent.tpm.ak_public.hex())
    await obey(machines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.side.attesters", description=__doc__)
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--ak", default="rsa2048")
    parser.add_argument("--files", action="store_true", help="the machines have an IMA log")
    parser.add_argument("--installation", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--port", type=int, required=True, help="of the first agent's HTTPS server")
    parser.add_argument("--pair", type=Path, required=True, help="key and certificate of the HTTPS servers")
    parser.add_argument("--verifier-ca", type=Path, required=True)
    uvloop.run(main(parser.parse_args()))
