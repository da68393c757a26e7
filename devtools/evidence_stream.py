"""Looks into the EVIDENCE stream without consuming it, for tests of agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from attestream.bus.connection import Bus
from attestream.bus.stored import get_batch
from schemas import subjects, topology
from schemas.attestation import ChangeNotice, Evidence, EvidencePart, Hello
from schemas.base import Decoder, Message

_INBOUND: Final = Decoder[Message](Evidence | EvidencePart | Hello | ChangeNotice)
_MOST: Final = 1000


class Sent(NamedTuple):
    """What an agent has stored."""

    message_id: str
    message: Message


class EvidenceStream:
    """The first thousand messages of the stream."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def sent(self) -> list[Sent]:
        """Return what is stored now, oldest first."""
        request = {"seq": 1, "batch": _MOST, "next_by_subj": ">"}
        batch = await get_batch(self._bus, topology.EVIDENCE.name, request)
        return [Sent(one.headers[subjects.HEADER_MESSAGE_ID], _INBOUND.decode(one.data)) for one in batch.messages]

    async def until(self, condition: Callable[[list[Sent]], bool], timeout_s: float = 60.0) -> list[Sent]:
        """Return what is stored as soon as it fulfils ``condition``.

        :raises TimeoutError: when it does not within ``timeout_s`` seconds.
        """
        async with asyncio.timeout(timeout_s):
            while not condition(found := await self.sent()):
                await asyncio.sleep(0.005)
        return found

    async def restarted(self, restart: Callable[[], object]) -> None:
        """Call ``restart``, which restarts the server, and return when the connection is back.

        A question that was asked in between would be lost, and waited for.
        """
        back = asyncio.Event()

        async def notice() -> None:
            back.set()

        forget = self._bus.on_reconnect(notice)
        restart()
        await back.wait()
        forget()

    async def count(self, number: int, timeout_s: float = 60.0) -> list[Sent]:
        """Return what is stored as soon as there are ``number`` messages.

        :raises TimeoutError: when there are not within ``timeout_s`` seconds.
        """
        return await self.until(lambda found: len(found) >= number, timeout_s)
