"""Lets a fleet live as its scenario says."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

from attestream.client import Client, PendingCommandError, new_command_id
from attestream.errors import AttestreamError, BusError, UnknownPolicyError
from devtools.fleet.fleet import Fleet
from devtools.fleet.machine import Machine, policies
from devtools.fleet.scenario import Step
from schemas.commands import AddAgent, Attestation, Command, StartAgent, UpdateAgent
from schemas.events import Standing

_COMMANDS: Final = 32
_COMMAND_S: Final = 150.0
"""A command that a bus server took with it to its end comes again after a minute."""
_MISSED: Final = 3
"""Challenges without an answer after which an agent is unreachable: the verifier's default."""


class Director:
    """Carries out the steps of ``fleet``'s scenario, as the operator ``client`` where one is needed."""

    def __init__(self, fleet: Fleet, client: Client, tell: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._client = client
        self._tell = tell
        self._groups: dict[str, list[Machine]] = {}
        self._turns = asyncio.Semaphore(_COMMANDS)

    async def admit(self) -> None:
        """Publish the policies and put every agent under attestation."""
        await self.publish()
        await self._each(list(self._fleet.agents.values()), 0.0, self._add)

    async def play(self) -> None:
        """Carry out every step at its time, and wait until all are done."""
        began = time.monotonic()
        steps = sorted(self._fleet.scenario.step, key=lambda step: step.at_s)
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                await asyncio.sleep(max(0.0, began + step.at_s - time.monotonic()))
                tasks.create_task(self._do(step))
        await asyncio.sleep(max(0.0, began + self._fleet.scenario.duration_s - time.monotonic()))

    async def publish(self) -> None:
        """Publish the policies of the image's newest version."""
        for name, document in policies(self._fleet.image).items():
            await self._pushed(name, document)

    async def readmit(self, machine: Machine) -> None:
        """Clean a machine up by a reboot, let it in again, and give it its next chance.

        :raises AttestreamError: somebody does not let it in.
        """
        machine.restart(self._fleet.scenario.image.at_boot)
        if machine.owed.standing == (Standing.FAILED,):
            machine.owed.readmissions += 1
        await self.command(StartAgent(command_id=new_command_id(), agent_id=machine.agent_id))
        if self._fleet.network.bus(machine) is None:
            await self._fleet.network.join(machine)
        machine.owed.standing = (Standing.TRUSTED,)

    async def command(self, command: Command) -> None:
        """Have a command executed, also while nobody can yet: it is sent again under its id until it has an outcome.

        :raises AttestreamError: it is refused, or has no outcome in time.
        """
        deadline = time.monotonic() + _COMMAND_S
        async with self._turns:
            while True:
                try:
                    await self._client.command(command, timeout_s=5.0)
                except (PendingCommandError, BusError):
                    if time.monotonic() > deadline:
                        raise
                else:
                    return

    async def _pushed(self, name: str, document: dict[str, object]) -> None:
        deadline = time.monotonic() + _COMMAND_S
        while True:
            try:
                await self._client.push_policy(name, json.dumps(document).encode(), timeout_s=30.0)
            except (PendingCommandError, BusError, UnknownPolicyError):
                if time.monotonic() > deadline:
                    raise
            else:
                return

    async def _add(self, machine: Machine) -> None:
        await self.command(
            AddAgent(command_id=new_command_id(), agent_id=machine.agent_id, attestation=self._attestation(machine))
        )

    def _attestation(self, machine: Machine) -> Attestation:
        scenario = self._fleet.scenario
        return Attestation(policy=machine.policy, interval_ms=scenario.interval_ms, lease_ms=scenario.lease_ms)

    async def _do(self, step: Step) -> None:
        if step.do == "publish":
            self._fleet.image.version += 1
            await self.publish()
            self._tell(f"version {self._fleet.image.version} of the policies is published")
            return
        chosen = self._chosen(step)
        self._tell(f"{step.do}: {len(chosen)} agents" + (f" over {step.spread_s:g} s" if step.spread_s else ""))
        await self._each(chosen, step.spread_s, lambda machine: self._happen(step, machine))

    def _chosen(self, step: Step) -> list[Machine]:
        if step.group in self._groups:
            return self._groups[step.group]
        # Nothing more is asked of those whose fate is decided.
        free = [machine for machine in self._fleet.agents.values() if machine.healthy and not machine.silent_until]
        count = step.count if step.count is not None else round((step.share or 1.0) * len(self._fleet.agents))
        chosen = self._fleet.rng.sample(free, min(count, len(free)))
        if step.group:
            self._groups[step.group] = chosen
        return chosen

    async def _each(self, machines: list[Machine], spread_s: float, what: Callable[[Machine], Awaitable[None]]) -> None:
        async def one(machine: Machine, wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            await what(machine)

        async with asyncio.TaskGroup() as tasks:
            for number, machine in enumerate(machines):
                tasks.create_task(one(machine, spread_s * number / max(1, len(machines))))

    async def _happen(self, step: Step, machine: Machine) -> None:
        fleet = self._fleet
        match step.do:
            case "run":
                machine.work(step.times)
                await fleet.notice(machine)
            case "intrude":
                machine.intrude()
                await fleet.notice(machine)
            case "hide":
                machine.hide()
                await fleet.notice(machine)
            case "reboot":
                machine.restart(fleet.scenario.image.at_boot)
                await fleet.notice(machine)
            case "readmit":
                await self.readmit(machine)
            case "upgrade":
                await self._upgrade(machine)
            case "silence" | "slow" | "lossy":
                self._impair(step, machine)
            case "forge" | "replay":
                self._corrupt(step, machine)
            case "garbage":
                await fleet.spam(machine)
            case "reconnect":
                # Challenges of meanwhile are lost, and a storm may outlast three of them.
                machine.owed.may_be_missed = machine.owed.may_be_refused = True
                await fleet.network.reconnect(machine)
            case "renew":
                await self._renew(machine)

    async def _upgrade(self, machine: Machine) -> None:
        machine.version = self._fleet.image.version
        update = UpdateAgent(command_id=new_command_id(), agent_id=machine.agent_id, attestation=self._attestation(machine))
        await self.command(update)
        for path in self._fleet.image.added(machine.version)[:3]:
            machine.measure(self._fleet.image.record(path))
        await self._fleet.notice(machine)

    async def _renew(self, machine: Machine) -> None:
        network = self._fleet.network
        if not machine.healthy:
            if await network.intrude(machine):
                self._fleet.failures.append(f"{machine.agent_id} has failed, and its identity still lets it in")
            return
        machine.owed.may_be_missed = machine.owed.may_be_refused = True
        try:
            await network.renew(machine)
        except AttestreamError as error:
            self._fleet.failures.append(f"the identity of {machine.agent_id} was not renewed: {error.message}")

    def _impair(self, step: Step, machine: Machine) -> None:
        scenario, owed = self._fleet.scenario, machine.owed
        if step.do == "silence":
            machine.silent_until = time.monotonic() + (step.for_s or math.inf)
        elif step.do == "slow":
            machine.delay_s = step.delay_s
        else:
            machine.loss = step.loss
        noticed_s = _MISSED * (scenario.timeout_ms + scenario.interval_ms) / 1000
        hopeless = step.do == "slow" and step.delay_s * 1000 > scenario.timeout_ms
        if step.do == "lossy" or hopeless or (step.do == "silence" and (step.for_s or math.inf) > noticed_s / 4):
            owed.may_be_missed = owed.may_be_refused = True
        if not step.for_s and (step.do == "silence" or hopeless):
            owed.standing = (Standing.UNREACHABLE, Standing.UNKNOWN)
        elif not step.for_s and step.do == "lossy":
            owed.standing = (Standing.TRUSTED, Standing.UNREACHABLE)
        if step.for_s:
            asyncio.get_running_loop().call_later(step.for_s, self._heal, machine)

    @staticmethod
    def _heal(machine: Machine) -> None:
        machine.silent_until = machine.delay_s = machine.loss = 0.0

    @staticmethod
    def _corrupt(step: Step, machine: Machine) -> None:
        machine.malice = "forge" if step.do == "forge" else "replay"
        machine.owed.may_be_refused = True
        if step.do == "forge":
            machine.fails("")
        else:
            # A replayed answer is thrown away: the agent is as good as absent.
            machine.owed.may_be_missed = True
            machine.owed.standing = (Standing.UNREACHABLE, Standing.UNKNOWN)
