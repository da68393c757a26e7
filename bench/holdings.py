"""What an installation uses: CPU, memory, databases and streams."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from attestream.bus import jetstream
from attestream.bus.connection import Bus
from attestream.bus.stored import get_batch
from bench.machine import unique_bytes
from bench.stack import Simulator, Stack
from schemas import subjects, topology
from schemas.events import EventKind

DATABASES: Final = ("verifier", "registrar")


class Spent(NamedTuple):
    """CPU seconds so far, by what used them; all workers count together."""

    at: float
    """Seconds of the monotonic clock."""
    attestations: int
    cpu: dict[str, float]

    def since(self, before: Spent) -> Spent:
        """Return what was spent since ``before``; ``at`` are the seconds between."""
        cpu = {name: spent - before.cpu.get(name, 0.0) for name, spent in self.cpu.items()}
        return Spent(self.at - before.at, self.attestations - before.attestations, cpu)

    @property
    def rate(self) -> float:
        """Attestations a second."""
        return self.attestations / self.at

    def us(self, name: str) -> float:
        """Microseconds of CPU of ``name`` for each attestation."""
        return 1e6 * self.cpu[name] / max(1, self.attestations)

    def cores(self, name: str) -> float:
        """Part of a core that ``name`` used."""
        return self.cpu[name] / self.at


class Held(NamedTuple):
    """Bytes that are held."""

    memory: dict[str, int]
    """Unique set size of each process."""
    databases: dict[str, int]
    streams: dict[str, tuple[int, int]]
    """Messages and bytes of each stream."""
    disk: int
    """Of the streams' files."""


def kind(process: str) -> str:
    """Return what a process counts as."""
    return process.partition("-")[0]


async def spent(parts: Stack, agents: Simulator) -> Spent:
    """Return the CPU seconds of everything by now, at the moment at which the agents' process counts what was asked."""
    agents.order(do="spent", of=dict(_processes(parts)))
    found = await agents.hear("spent")
    cpu: dict[str, float] = {}
    for name, seconds in found["cpu"].items():
        cpu[kind(name)] = cpu.get(kind(name), 0.0) + seconds
    return Spent(found["at"], found["attestations"], cpu)


async def held(parts: Stack, bus: Bus) -> Held:
    """Return what is held now. ``bus`` may look at streams."""
    streams = {}
    for stream in topology.STREAMS:
        state = (await jetstream.call(bus, f"STREAM.INFO.{stream.name}", {}))["state"]
        streams[stream.name] = (int(state["messages"]), int(state["bytes"]))
    return Held(
        memory={kind(name): unique_bytes(pid) for name, pid in _processes(parts)},
        databases={name: _database_bytes(database(parts, name)) for name in DATABASES},
        streams=streams,
        disk=sum(file.stat().st_size for file in (parts.server.store_dir / "jetstream").rglob("*") if file.is_file()),
    )


async def lapses(parts: Stack) -> int:
    """Return how often an agent became unreachable or its result lapsed."""
    total = 0
    for kind in (EventKind.UNREACHABLE, EventKind.LAPSED):
        start = 1
        while True:
            request = {"seq": start, "batch": 500, "next_by_subj": subjects.events_of_kind(kind)}
            found = (await get_batch(parts.client.bus, topology.EVENTS.name, request)).messages
            if not found:
                break
            total += len(found)
            start = found[-1].sequence + 1
    return total


async def results(bus: Bus) -> int:
    """Return how many agents have a result; see :func:`held` for ``bus``."""
    state = (await jetstream.call(bus, f"STREAM.INFO.{topology.RESULTS.name}", {}))["state"]
    # One message of each agent, and the fence of each partition.
    return int(state["messages"]) - subjects.PARTITIONS


def database(parts: Stack, name: str) -> Path:
    """Return the database of the service ``name``."""
    return parts.place.directory / f"{name}.db"


def _processes(parts: Stack) -> Iterable[tuple[str, int]]:
    yield from ((name, program.pid) for name, program in parts.programs.items())
    assert parts.server.pid is not None
    yield "server", parts.server.pid


def _database_bytes(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (pages,), (size,) = (connection.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    return int(pages) * int(size)
