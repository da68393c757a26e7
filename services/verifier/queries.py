"""What any worker answers: the state of one agent, and pages of all. Live where it owns the agent, else from its row."""

from __future__ import annotations

from typing import Final

from attestream.bus.connection import Bus
from attestream.errors import UnknownAgentError
from schemas import subjects
from schemas.commands import AgentStatus, AgentStatusPage
from schemas.enrolment import AgentQuery, AgentsQuery
from services.verifier.store import Store
from services.verifier.worker import Worker

QUEUE: Final = "verifier"
MAX_PAGE: Final = 500


class Queries:
    """Answers for the pool; whichever worker is asked."""

    def __init__(self, bus: Bus, store: Store, worker: Worker) -> None:
        self._bus = bus
        self._store = store
        self._worker = worker

    async def serve(self) -> None:
        """Begin to answer."""
        await self._bus.serve(subjects.QUERY_VERIFIER_AGENT, QUEUE, AgentQuery, self.agent, signed=True)
        await self._bus.serve(subjects.QUERY_VERIFIER_AGENTS, QUEUE, AgentsQuery, self.agents, signed=True)

    async def agent(self, query: AgentQuery) -> AgentStatus:
        """Return the status of one agent.

        :raises UnknownAgentError: when it is not under attestation.
        """
        attester = self._worker.attester(query.agent_id)
        if attester is not None:
            return attester.status(self._worker.name)
        row = await self._store.agent(query.agent_id)
        if row is None:
            raise UnknownAgentError(f"{query.agent_id} is not under attestation")
        return row.status()

    async def agents(self, query: AgentsQuery) -> AgentStatusPage:
        """Return a page of agents in the order of their ids."""
        limit = max(1, min(query.limit, MAX_PAGE))
        rows = await self._store.page(query.after, limit + 1)
        return AgentStatusPage(
            agents=[self._live(row.agent_id) or row.status() for row in rows[:limit]], more=len(rows) > limit
        )

    def _live(self, agent_id: str) -> AgentStatus | None:
        attester = self._worker.attester(agent_id)
        return attester.status(self._worker.name) if attester else None
