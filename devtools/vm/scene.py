"""What every step works with, and how it waits for what it wants to see."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from attestream.client import Client, DeliveredEvent
from devtools.demo.narration import Narrator
from devtools.demo.subscriber import Heard, Subscriber
from devtools.demo.waiting import NotObservedError, wait_to_see
from devtools.vm.operator_shell import OperatorShell
from devtools.vm.stage import AGENT_ID, Stage
from schemas.events import Event, EventKind, Standing

_T = TypeVar("_T")


@dataclass
class Scene:
    """The stage, and the eyes and the voice of the proof."""

    stage: Stage
    client: Client
    subscriber: Subscriber
    narrator: Narrator
    deadline_s: float
    """Seconds after which something counts as not observed."""
    figures: list[tuple[str, float]] = field(default_factory=list)
    """What was observed in the step that is played, and how many milliseconds it took."""

    @property
    def shell(self) -> OperatorShell:
        """The operator's shell in the running machine."""
        assert self.stage.machine.operator is not None
        return self.stage.machine.operator

    def saw(self, what: str, began: float, *, short: str) -> None:
        """Tell that ``what`` was observed now, after ``began`` (Unix milliseconds), and keep the figure."""
        ms = time.time() * 1000 - began
        self.narrator.seen(what, ms)
        self.figures.append((short, ms))

    async def until(self, what: str, look: Callable[[], Awaitable[_T | None]], *, every_s: float = 0.05) -> _T:
        """Look until there is something to see, and return it.

        :raises NotObservedError: when there is nothing after :attr:`deadline_s`, or a program ends by itself.
        """
        return await wait_to_see(
            what,
            look,
            narrator=self.narrator,
            accident=lambda: self.stage.accident,
            deadline_s=self.deadline_s,
            every_s=every_s,
        )

    async def until_trusted(self, *, since: float) -> None:
        """Wait for a result that came after ``since`` and says that the machine is trusted.

        :raises NotObservedError: when none comes, or a failure comes instead.
        """

        async def look() -> bool | None:
            failed = self.failure(since=since)
            if failed is not None:
                found = "; ".join(f"{item.code} {item.culprit}: {item.message}" for item in failed.item.event.findings)
                raise NotObservedError(f"the machine has failed instead of being trusted: {found}")
            return True if self.subscriber.trusted(AGENT_ID, since=since) is not None else None

        await self.until("a result that says the machine is trusted", look)

    async def until_failed(self, *, since: float) -> Event:
        """Wait for the machine's failure after ``since``, and for the signed revocation; return the event.

        :raises NotObservedError: when they do not come, or the machine is trusted and stays so.
        """

        async def look() -> Event | None:
            failed = self.failure(since=since)
            revoked = self.subscriber.revocation(AGENT_ID, since=since)
            return failed.item.event if failed is not None and revoked is not None else None

        event = await self.until("the machine's failure and its signed revocation", look)
        newest = self.subscriber.result(AGENT_ID)
        if newest is not None and newest.item.standing is Standing.TRUSTED:
            raise NotObservedError("the machine has failed, and its newest result still says trusted")
        return event

    def failure(self, *, since: float) -> Heard[DeliveredEvent] | None:
        """Return the newest failure of the machine after ``since``."""
        return self.subscriber.event(EventKind.FAILED, AGENT_ID, since=since)
