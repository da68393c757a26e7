"""The life that goes on while things fail: machines run programs of their image, and some of them an intruder."""

from __future__ import annotations

import asyncio
import random

from devtools.fleet.director import Director
from devtools.fleet.fleet import Fleet
from devtools.fleet.machine import Machine
from schemas.events import Standing

PAUSE_S = 0.1
"""Between two machines that run a program."""


class Load:
    """Keeps ``fleet`` busy. Who is to fail is decided by the caller's random numbers alone."""

    def __init__(self, fleet: Fleet, director: Director) -> None:
        self.fleet = fleet
        self._director = director
        self._task: asyncio.Task[None] | None = None
        for machine in fleet.agents.values():
            # An outage may well be longer than three challenges.
            machine.owed.may_be_missed = machine.owed.may_be_refused = True

    def start(self) -> None:
        """Let machines run programs from now on."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Let them rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def wound(self, count: int, span_s: float, rng: random.Random) -> None:
        """Have ``count`` machines run an intruder, one after another within ``span_s`` seconds."""
        for _ in range(count):
            await asyncio.sleep(rng.uniform(0, 2 * span_s / count))
            healthy = [machine for machine in self.fleet.agents.values() if machine.healthy]
            machine = rng.choice(healthy)
            machine.intrude()
            self.fleet.soon(self.fleet.notice(machine))

    async def readmit(self) -> None:
        """Clean up every machine that has failed, and let it in again.

        :raises AttestreamError: somebody does not let it in.
        """
        failed = [machine for machine in self.fleet.agents.values() if machine.owed.standing == (Standing.FAILED,)]
        async with asyncio.TaskGroup() as tasks:
            for machine in failed:
                tasks.create_task(self._director.readmit(machine))

    async def _work(self) -> None:
        machines: list[Machine] = list(self.fleet.agents.values())
        while True:
            machine = random.choice(machines)
            if machine.healthy:
                machine.work(random.randint(1, 3))
                self.fleet.soon(self.fleet.notice(machine))
            await asyncio.sleep(PAUSE_S)
