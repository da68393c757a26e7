"""Large evidence is appraised beside everything else, so that the other agents of its partition do not wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from attestream.bus.delivery import Delivery
from attestream.errors import AttestreamError

_log = logging.getLogger(__name__)

RETRY_S: Final = 0.25
"""When evidence comes again that could not be dealt with."""

BUSY_S: Final = 1.0
"""When evidence comes again whose agent is busy with other evidence."""

WORKING_S: Final = 15.0
"""Time between two words to the bus that deliveries are still being worked on; well below the consumer's patience."""

Fail = Callable[[Delivery, Exception], Awaitable[None]]


class Settling:
    """The appraisals that are under way, at most one of each agent.

    :param fail: decides about a delivery by the error that it ended in.
    """

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def busy(self, agent_id: str) -> bool:
        """Return whether evidence of ``agent_id`` is under way: what comes next has to come again later."""
        return agent_id in self._tasks

    def begin(self, agent_id: str, work: Awaitable[None], deliveries: list[Delivery], last: Delivery) -> None:
        """Do ``work`` without waiting for it, then settle ``deliveries``; ``last`` is the one that completed them."""
        task = asyncio.ensure_future(self._settle(work, deliveries, last))
        self._tasks[agent_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(agent_id, None))

    async def stop(self) -> None:
        """Leave what is under way to whoever gets it next."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _settle(self, work: Awaitable[None], deliveries: list[Delivery], last: Delivery) -> None:
        alive = asyncio.ensure_future(_keep(deliveries))
        try:
            await work
        except asyncio.CancelledError:
            for part in deliveries:
                await part.retry()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, `fail` gives the evidence its fate
            # One delivery is judged by the error; the others must come again with it.
            for part in deliveries:
                if part is not last:
                    await (part.retry(RETRY_S) if isinstance(error, AttestreamError) and not error.permanent else part.ack())
            await self._fail(last, error)
        else:
            for part in deliveries:
                await part.ack()
        finally:
            alive.cancel()


async def _keep(deliveries: list[Delivery]) -> None:
    while True:
        await asyncio.sleep(WORKING_S)
        for part in deliveries:
            await part.working()
