"""Watches the IMA log and tells the agent's owner at once when it grows: attestation on change."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Final

from attestream.bus.connection import Bus
from attestream.errors import BusError
from attestream.rates import TokenBucket
from schemas import subjects
from schemas.attestation import ChangeNotice
from services.agent.ima_log import ImaLog

_log = logging.getLogger(__name__)

NOTICE_INTERVAL_S: Final = 0.1
"""A notice may be sent each such interval."""

NOTICE_BURST: Final = 3
"""Notices that may be sent at once after a quiet time."""

_STUCK_S: Final = 5.0


class Watch:
    """Sends a :class:`ChangeNotice` when the log has other entries than it was last told of.

    Too many changes are told of together, later: the last state of the log is always sent.

    :param poll_s: seconds between two looks at the log; files of securityfs can not be waited for.
    :param now: Unix time in milliseconds.
    """

    def __init__(self, bus: Bus, agent_id: str, log: ImaLog, *, poll_s: float, now: Callable[[], int]) -> None:
        self._bus = bus
        self._agent_id = agent_id
        self._ima = log
        self._poll_s = poll_s
        self._now = now
        self._told: tuple[int, int] | None = None

    async def begin(self) -> None:
        """Look at the log for the first time: what it holds now is not told of, what comes later is."""
        self._told = await self._look()

    async def run(self) -> None:
        """Watch for ever."""
        bucket = TokenBucket(NOTICE_INTERVAL_S, NOTICE_BURST, asyncio.get_running_loop().time)
        while True:
            await asyncio.sleep(self._poll_s)
            seen = await self._look()
            if seen is None or seen == self._told or not bucket.take():
                continue
            if await self._tell(seen[1]):
                self._told = seen

    async def _look(self) -> tuple[int, int] | None:
        """Return generation and number of entries of the log; ``None`` when it can not be read."""
        try:
            entries = await asyncio.to_thread(self._ima.refresh)
        except OSError as error:
            _log.error("the IMA log %s can not be watched: %s", self._ima.path, error.strerror)
            await asyncio.sleep(_STUCK_S)
            return None
        return self._ima.generation, entries

    async def _tell(self, entries: int) -> bool:
        notice = ChangeNotice(agent_id=self._agent_id, entries=entries, at=self._now())
        try:
            await self._bus.publish_durable(
                subjects.evidence(self._agent_id), notice, message_id=f"{self._agent_id}:change:{uuid.uuid4().hex}"
            )
        except BusError as error:
            _log.warning("the change of the IMA log was not told: %s", error)
            return False
        return True
