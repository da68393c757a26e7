"""Doing together what many ask for at the same time: one transaction, and few statements, for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from attestream.errors import AttestreamError, StorageError

MOST: Final = 64
"""Most that is done at once."""

T = TypeVar("T")
R = TypeVar("R")


class Group(Generic[T, R]):
    """Hands what is submitted to ``work``, in the order in which it came, and each submitter his part of what it returns.

    What comes while ``work`` is busy waits for its next turn, so nobody waits for others to come. ``work`` gets a list and
    returns a result for each entry of it; what it raises is raised to all of them.
    """

    def __init__(self, work: Callable[[list[T]], Awaitable[list[R]]]) -> None:
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Return the result of ``work`` for ``item``, once all of its turn is done.

        :raises Exception: what ``work`` raises.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                turn, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._do(turn)
        finally:
            self._task = None

    async def _do(self, turn: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([item for item, _ in turn])
        except Exception as error:  # noqa: BLE001 - those who wait must learn of it, whatever it is; it is raised to them
            if len(turn) > 1 and not _lasting(error):
                # One of them may have brought it about: the others are not to suffer for it.
                for one in turn:
                    await self._do([one])
                return
            for _, future in turn:
                if not future.done():
                    future.set_exception(error)
        except BaseException:
            for _, future in turn:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(turn, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _lasting(error: Exception) -> bool:
    """Whether it would meet each of them by itself, too: an outage, and not a statement that was refused."""
    return error.reason != "refused" if isinstance(error, StorageError) else isinstance(error, AttestreamError)
