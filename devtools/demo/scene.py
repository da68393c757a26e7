"""What every step works with, and how it waits for what it wants to see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from attestream.client import Client
from devtools.demo.machine import Machine
from devtools.demo.narration import Narrator
from devtools.demo.stage import Stage
from devtools.demo.subscriber import Subscriber
from devtools.demo.waiting import wait_to_see
from schemas import subjects
from schemas.commands import AgentStatus, AgentStatusPage
from schemas.enrolment import AgentsQuery

_T = TypeVar("_T")

_QUERY_S = 1.0


@dataclass
class Scene:
    """The stage, and the eyes and the voice of the demonstration."""

    stage: Stage
    client: Client
    subscriber: Subscriber
    narrator: Narrator
    intruder: str
    """Path of the program that is run though no policy knows it."""
    known: str
    """Path of a program that the policy knows and that only the first machine has run."""
    deadline_s: float
    """Seconds after which something counts as not observed."""
    figures: list[tuple[str, float]] = field(default_factory=list)
    """Of the step that is played: what was observed and how many milliseconds it took."""

    @property
    def machines(self) -> list[Machine]:
        """All machines."""
        return list(self.stage.machines.values())

    def saw(self, what: str, ms: float, *, short: str) -> None:
        """Tell that ``what`` was observed after ``ms``, and keep the figure for the summary under ``short``."""
        self.narrator.seen(what, ms)
        self.figures.append((short, ms))

    async def until(self, what: str, look: Callable[[], Awaitable[_T | None]], *, every_s: float = 0.005) -> _T:
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

    async def live(self) -> dict[str, AgentStatus]:
        """Return what one worker, whichever is asked, tells of the agents that it owns itself.

        :raises BusError: when none answers.
        """
        query = AgentsQuery()
        page = await self.client.bus.request(subjects.QUERY_VERIFIER_AGENTS, query, AgentStatusPage, timeout_s=_QUERY_S)
        return {status.agent_id: status for status in page.agents if status.worker}

    async def owners(self) -> dict[str, AgentStatus]:
        """Ask until the owner of every agent has told of it, and return that.

        :raises NotObservedError: when an agent has no owner.
        """
        found: dict[str, AgentStatus] = {}

        async def look() -> dict[str, AgentStatus] | None:
            found.update(await self.live())
            return found if found.keys() == self.stage.machines.keys() else None

        return await self.until("the word of every agent's owner", look)
