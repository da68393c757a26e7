"""How machines reach the bus: all over one connection, or each over its own with the identity that it has earned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.credentials.document import Credentials
from attestream.errors import AttestreamError, BusError
from devtools.bus_identities import enrolled, renewed
from devtools.fleet.machine import Machine
from devtools.secure_bus import everybody
from devtools.site import Site
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import Decoder, encode
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled
from schemas.roles import Role

OnChallenge = Callable[[Bus, Challenge, str], Awaitable[None]]

_CHALLENGE: Final = Decoder[Challenge](Challenge)
_ENROLMENTS: Final = 16
_ENROL_S: Final = 60.0
_RETRY_S: Final = 0.2
_PENDING: Final = 1 << 20


class Network:
    """The connections of a fleet to a site. ``heard`` is awaited for each challenge."""

    def __init__(self, site: Site, heard: OnChallenge, *, own: bool) -> None:
        self._site = site
        self._heard = heard
        self._own = own
        self._shared: Bus | None = None
        self._enrolment: Bus | None = None
        self._lines: dict[str, Bus] = {}
        self._held: dict[str, Credentials] = {}
        self._turns = asyncio.Semaphore(_ENROLMENTS)
        self.cut_off = 0
        """Connections that the bus has closed because their machine has failed."""

    async def start(self) -> None:
        """Connect what all machines share."""
        self._enrolment = await self._site.connect(Role.ENROLMENT)
        if not self._own:
            self._shared = await everybody(self._site.place, self._site.settings("fleet"))
            await self._listen(self._shared, "*")

    async def join(self, machine: Machine) -> None:
        """Enrol a machine as a real one is, and connect it.

        :raises AttestreamError: the registrar refuses, or nobody answers in time.
        """
        async with self._turns:
            deadline = time.monotonic() + _ENROL_S
            while True:
                try:
                    token = await self._enrol(machine)
                    break
                except AttestreamError:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(_RETRY_S)
        if self._own:
            await self._connect(machine, token)

    def bus(self, machine: Machine) -> Bus | None:
        """Return the connection of a machine; ``None``: it has none now."""
        return self._lines.get(machine.agent_id) if self._own else self._shared

    async def reconnect(self, machine: Machine) -> None:
        """Cut the connection of a machine; it comes back by itself."""
        line = self._lines.get(machine.agent_id)
        if line is not None:
            await line.nc.force_reconnect()

    async def renew(self, machine: Machine) -> None:
        """Have the identity of a machine renewed, and come back with the new one.

        :raises AttestreamError: it is not renewed.
        """
        line = self._lines.get(machine.agent_id)
        if line is not None:
            token = await renewed(line, machine.agent_id, machine.bus_key)
            self._held[machine.agent_id] = Credentials(token, machine.bus_key)
            await line.nc.force_reconnect()

    async def intrude(self, machine: Machine) -> bool:
        """Return whether a machine that has failed gets in again with the identity that it had, once it is cut off."""
        deadline = time.monotonic() + _ENROL_S
        while machine.agent_id in self._lines:
            if time.monotonic() > deadline:
                return True
            await asyncio.sleep(_RETRY_S)
        try:
            line = await connect(self._settings(machine))
        except AttestreamError:
            return False
        await line.close()
        return True

    async def close(self) -> None:
        """Disconnect everybody."""
        for bus in (*self._lines.values(), self._shared, self._enrolment):
            if bus is not None:
                await bus.close()
        self._lines.clear()

    async def _enrol(self, machine: Machine) -> str:
        assert self._enrolment is not None
        if self._own:
            answer = await enrolled(self._enrolment, machine, machine.bus_key)
            if not answer.bus_token:
                # The registrar hears of what lifts a block a moment after the operator.
                raise BusError(f"{machine.agent_id} has enrolled and was given no identity: {answer.bus_refusal}")
            machine.enrolment = answer.enrolment
            return answer.bus_token
        request = machine.enrol_request()
        challenge = await self._enrolment.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge, timeout_s=5)
        proof = machine.proof(encode(request), encode(challenge))
        activation = ActivateRequest(agent_id=machine.agent_id, challenge_id=challenge.challenge_id, proof=proof)
        answer = await self._enrolment.request(subjects.REGISTRAR_ACTIVATE, activation, Enrolled, timeout_s=5)
        machine.enrolment = answer.enrolment
        return ""

    async def _connect(self, machine: Machine, token: str) -> None:
        self._held[machine.agent_id] = Credentials(token, machine.bus_key)
        line = await connect(self._settings(machine))
        self._lines[machine.agent_id] = line

        async def closed() -> None:
            if self._lines.get(machine.agent_id) is line:
                del self._lines[machine.agent_id]
                self.cut_off += 1
                if machine.healthy:
                    # The registrar heard of a failure after its end. A real agent is started anew, and enrols.
                    await self.join(machine)

        line.on_closed(closed)
        await self._listen(line, subjects.token(machine.agent_id))

    def _settings(self, machine: Machine) -> BusSettings:
        return self._site.settings(machine.agent_id, identity=lambda: self._held[machine.agent_id])

    async def _listen(self, bus: Bus, token: str) -> None:
        async def take(message: Any) -> None:
            await self._heard(bus, _CHALLENGE.decode(message.data), message.reply)

        await bus.nc.subscribe(subjects.challenge_of(token), cb=take, pending_msgs_limit=_PENDING, pending_bytes_limit=-1)
        await bus.nc.flush()
