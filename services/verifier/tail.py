"""The end of the record, read once for all partitions that a worker takes over at the same time."""

from __future__ import annotations

import asyncio
from typing import Final

from attestream.bus.connection import Bus
from attestream.bus.stored import Stored, get_batch
from attestream.errors import BusError
from schemas import subjects, topology

LONGEST: Final = 20_000
"""Messages behind a mark up to which they are read in a row; of more, the last ones of each agent are asked for."""

KEEP_S: Final = 10.0
"""How long what was read is kept for the next partition."""

_BATCH: Final = 1_000
_PATIENCE_S: Final = 15.0
_PAUSE_S: Final = 0.05


class Tail:
    """The last event of each kind about each agent, behind some sequence of EVENTS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reading = asyncio.Lock()
        self._found: dict[str, dict[str, Stored]] = {}
        """Subject token -> subject -> the last message."""
        self._from = self._to = 0
        """Sequences behind which, and up to which, it was read."""
        self._forgetting: asyncio.TimerHandle | None = None

    async def read(self, since: int, until: int, tokens: list[str]) -> list[Stored]:
        """Return the last event of each subject about ``tokens`` behind sequence ``since``, in order: at least up to
        ``until``, which is there, and perhaps with some from before.

        :raises BusError: the bus does not answer, or no replica of the stream has come up to ``until`` within 15 s.
        """
        async with self._reading:
            if not self._from <= since <= self._to:
                self._forget()
                self._from = self._to = since
            await self._read_on(until)
            found = [stored for token in tokens for stored in self._found.get(token, {}).values()]
            self._keep()
        return sorted(found, key=lambda stored: stored.sequence)

    async def _read_on(self, until: int) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while self._to < until:
            request = {"seq": self._to + 1, "next_by_subj": subjects.EVENTS, "batch": _BATCH}
            messages = (await get_batch(self._bus, topology.EVENTS.name, request)).messages
            for stored in messages:
                self._found.setdefault(stored.subject.rpartition(".")[2], {})[stored.subject] = stored
                self._to = stored.sequence
            if messages:
                continue
            # The replica that has answered is behind the one that has given out ``until``.
            if asyncio.get_running_loop().time() >= deadline:
                raise BusError(f"no replica of {topology.EVENTS.name} has come up to message {until}")
            await asyncio.sleep(_PAUSE_S)

    def _keep(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(KEEP_S, self._forget)

    def _forget(self) -> None:
        self._found = {}
        self._from = self._to = 0
