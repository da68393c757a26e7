"""Tells the agent's owner that the agent is there, at the start and whenever it has come back."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable
from typing import Final

from attestream.bus.connection import Bus
from attestream.errors import BusError
from schemas import subjects
from schemas.attestation import Hello

_log = logging.getLogger(__name__)

_PAUSE_S: Final = (1.0, 5.0)


class Presence:
    """Says :class:`Hello` once it runs and after each reconnect, until the stream has confirmed it.

    :param now: Unix time in milliseconds.
    """

    def __init__(self, bus: Bus, agent_id: str, enrolment: int, *, now: Callable[[], int]) -> None:
        self._bus = bus
        self._agent_id = agent_id
        self._enrolment = enrolment
        self._now = now
        self._due = asyncio.Event()

    async def run(self) -> None:
        """Say hello when it is due, for ever."""
        self._due.set()
        forget = self._bus.on_reconnect(self._returned)
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                try:
                    await self._say()
                except BusError as error:
                    _log.warning("hello was not heard: %s", error)
                    self._due.set()
                    await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter, not a secret
        finally:
            forget()

    async def _returned(self) -> None:
        self._due.set()

    async def _say(self) -> None:
        hello = Hello(agent_id=self._agent_id, enrolment=self._enrolment, at=self._now())
        message_id = f"{self._agent_id}:hello:{uuid.uuid4().hex}"
        await self._bus.publish_durable(subjects.evidence(self._agent_id), hello, message_id=message_id)
