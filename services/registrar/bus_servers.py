"""Asking the servers of the bus, over the bus's own account. Each answers for itself."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from attestream.errors import BusError

ANSWER_S: Final = 2.0
"""Seconds that servers have to answer."""
_GATHER_S: Final = 0.25


class Server(msgspec.Struct, frozen=True):
    """Who has answered, or tells of something."""

    id: str = ""
    name: str = ""


async def gather(bus: Bus, subject: str, payload: bytes, timeout_s: float, wanted: int) -> list[Msg]:
    """Return the answers of ``wanted`` servers; 0: of all that answer within a moment after the first.

    :raises BusError: none answers.
    """
    answers: list[Msg] = []
    heard = asyncio.Event()

    async def take(message: Msg) -> None:
        answers.append(message)
        heard.set()

    nc = bus.nc
    inbox = nc.new_inbox()
    try:
        subscription = await nc.subscribe(inbox, cb=take)
        try:
            await nc.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(timeout_s):
                while not answers or len(answers) < wanted:
                    heard.clear()
                    await heard.wait()
                if not wanted:
                    await asyncio.sleep(_GATHER_S)
        finally:
            if not nc.is_closed:
                await subscription.unsubscribe()
    except TimeoutError as error:
        if not answers:
            raise BusError(f"no server of the bus answers on {subject}") from error
    except nats.errors.Error as error:
        raise BusError(f"the bus's servers can not be asked: {error}") from error
    if any(answer.headers and answer.headers.get("Status") == "503" for answer in answers):
        raise BusError(f"no server of the bus hears {subject}")
    return answers
