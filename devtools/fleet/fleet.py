"""A fleet on the bus: its machines answer challenges, tell of news, and keep what the bus has acknowledged."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any, Final

from attestream.bus.connection import Bus
from attestream.clock import unix_ms
from attestream.errors import AttestreamError
from devtools.fleet.machine import SHARED_KEYS, Image, Machine
from devtools.fleet.network import Network
from devtools.fleet.scenario import Scenario
from devtools.site import Site
from devtools.soft_tpm import KeyPool
from schemas import subjects
from schemas.attestation import Challenge, ChangeNotice, Evidence
from schemas.base import Message, encode

_DURABLE_S: Final = 60.0
_SLICE: Final = 64
_GARBAGE: Final = 100


class Fleet:
    """The machines of ``scenario``, made from ``seed``: the same seed makes the same fleet but for its keys."""

    def __init__(self, site: Site, scenario: Scenario, *, agents: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.scenario = scenario
        self.image = Image(scenario.image.files)
        self.agents: dict[str, Machine] = {}
        self.network = Network(site, self._heard, own=scenario.connections == "own")
        self.answered = 0
        self.acknowledged = 0
        """Messages that the bus has taken into its keeping."""
        self.failures: list[str] = []
        """What could not be stored."""
        self._count = agents
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Make the machines, switch them on, enrol and connect them."""
        kinds = [kind for kind, weight in self.scenario.keys.items() for _ in range(weight)]
        keys = KeyPool(SHARED_KEYS, own=("ek",))
        measured = round(self.scenario.image.boot_logs * self._count)
        for number in range(self._count):
            machine = Machine(
                f"agent-{number:06d}",
                ak=kinds[number % len(kinds)],
                image=self.image,
                keys=keys,
                boot_log=number < measured,
                rng=self.rng,
            )
            machine.power_on(self.scenario.image.at_boot)
            self.agents[machine.agent_id] = machine
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        await self.network.start()
        async with asyncio.TaskGroup() as tasks:
            for machine in self.agents.values():
                tasks.create_task(self.network.join(machine))

    async def stop(self) -> None:
        """Fall silent."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.network.close()

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Have ``work`` done beside everything else."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def notice(self, machine: Machine) -> None:
        """Tell that the log of a machine has grown."""
        entries = len(machine.log)
        if entries == machine.noticed:
            return
        machine.noticed = entries
        message = ChangeNotice(agent_id=machine.agent_id, entries=entries, at=unix_ms())
        await self._store(machine, message, f"{machine.agent_id}:change:{machine.boots}:{entries}")

    async def spam(self, machine: Machine) -> None:
        """Publish what is no evidence at all, in a machine's name."""
        bus = self.network.bus(machine)
        for number in range(_GARBAGE):
            if bus is not None:
                await bus.nc.publish(subjects.evidence(machine.agent_id), machine.tpm.ak_public * (1 + number % 3))

    async def _heard(self, bus: Bus, challenge: Challenge, reply: str) -> None:
        machine = self.agents.get(challenge.agent_id)
        if machine is None or machine.silent:
            return
        if machine.delay_s:
            self.soon(self._late(bus, machine, challenge, reply))
        else:
            await self._reply(bus, machine, challenge, reply)

    async def _late(self, bus: Bus, machine: Machine, challenge: Challenge, reply: str) -> None:
        await asyncio.sleep(machine.delay_s)
        await self._reply(bus, machine, challenge, reply)

    async def _reply(self, bus: Bus, machine: Machine, challenge: Challenge, reply: str) -> None:
        evidence = machine.answer(challenge)
        self.answered += 1
        if machine.is_news(evidence):
            self.soon(self._deliver(machine, evidence))
        elif not bus.nc.is_closed:
            await bus.nc.publish(reply, encode(evidence))

    async def _deliver(self, machine: Machine, evidence: Evidence) -> None:
        await self._store(machine, evidence, f"{machine.agent_id}:{evidence.enrolment}:{evidence.seq}")

    async def _store(self, machine: Machine, message: Message, message_id: str) -> None:
        # A real agent, too, keeps what was not acknowledged until it is.
        deadline = time.monotonic() + _DURABLE_S
        while (bus := self.network.bus(machine)) is not None:
            try:
                await bus.publish_durable(subjects.evidence(machine.agent_id), message, message_id=message_id)
            except AttestreamError as error:
                # The identity of a machine that has failed is revoked: nobody waits for it.
                if bus.nc.is_closed or not machine.healthy:
                    return
                if time.monotonic() > deadline:
                    self.failures.append(f"{machine.agent_id}: {error.message}")
                    return
                await asyncio.sleep(0.1)
            else:
                self.acknowledged += 1
                return
