"""How long a service that has a connection to the bus lives."""

from __future__ import annotations

import asyncio

from attestream.bus.connection import Bus
from attestream.errors import BusError


async def until_stopped(bus: Bus, stopped: asyncio.Event) -> None:
    """Wait until ``stopped`` is set.

    :raises BusError: when the server closes the connection for good before that; the service must be started anew.
    """
    closed = asyncio.Event()

    async def end() -> None:
        closed.set()

    forget = bus.on_closed(end)
    if bus.nc.is_closed:
        closed.set()
    waits = [asyncio.create_task(event.wait()) for event in (stopped, closed)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        forget()
        for wait in waits:
            wait.cancel()
    if closed.is_set():
        raise BusError("the bus has closed the connection for good")
