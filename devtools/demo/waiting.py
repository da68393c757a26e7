"""Waiting until something is really seen: nothing is taken for granted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from attestream.errors import BusError
from devtools.demo.narration import Narrator

_T = TypeVar("_T")


class NotObservedError(Exception):
    """Something did not happen in time, or something else happened instead."""


async def wait_to_see(
    what: str,
    look: Callable[[], Awaitable[_T | None]],
    *,
    narrator: Narrator,
    accident: Callable[[], str],
    deadline_s: float,
    every_s: float,
) -> _T:
    """Look until there is something to see, and return it.

    :param accident: tells which program has ended by itself; empty when all is well.
    :raises NotObservedError: when there is nothing after ``deadline_s``, or a program ends by itself.
    """
    unanswered = ""
    try:
        async with asyncio.timeout(deadline_s):
            with narrator.waiting(what):
                while True:
                    try:
                        if (found := await look()) is not None:
                            return found
                    except BusError as error:  # nobody answers yet, or not any more: another look may find someone
                        unanswered = f" ({error.message})"
                    if happened := accident():
                        raise NotObservedError(f"{what}: {happened}")
                    await asyncio.sleep(every_s)
    except TimeoutError as error:
        raise NotObservedError(f"{what} did not happen within {deadline_s:g} s{unanswered}") from error
