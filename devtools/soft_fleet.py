"""Many software agents on one connection: they answer challenges as real agents do. For tests and the benchmark.

:meth:`SoftFleet.serve_identities` stands in for the registrar where only the verifier is under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from attestream.bus.connection import Bus
from attestream.clock import unix_ms
from attestream.errors import AttestreamError, UnknownAgentError
from devtools.soft_agent import SoftAgent
from schemas import subjects
from schemas.attestation import Challenge, ChangeNotice, Evidence, Hello
from schemas.base import Decoder, encode
from schemas.enrolment import AgentQuery, Identity

_CHALLENGE: Final = Decoder[Challenge](Challenge)


class SoftFleet:
    """Answers for ``agents`` over ``bus``. Agents named in ``silent`` do not answer."""

    def __init__(self, bus: Bus, agents: Iterable[SoftAgent]) -> None:
        self._bus = bus
        self.agents = {agent.agent_id: agent for agent in agents}
        self.silent: set[str] = set()
        self.answered = 0
        self.news = 0
        self.failures: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Any = None

    async def start(self) -> None:
        """Begin to answer challenges."""
        self._subscription = await self._bus.nc.subscribe(subjects.challenge_of("*"), cb=self._challenged)
        await self._bus.nc.flush()

    async def stop(self) -> None:
        """Fall silent, as if every agent were gone."""
        await self._subscription.unsubscribe()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def asked(self, agent: SoftAgent, reply: str) -> None:
        """Called before ``agent`` answers a challenge whose answer goes to ``reply``; for fleets that live meanwhile."""

    async def serve_identities(self) -> None:
        """Answer the verifier's question for keys, as a registrar would after enrolment."""
        await self._bus.serve(subjects.QUERY_REGISTRAR_AGENT, "registrar", AgentQuery, self._identity, signed=True)
        await self._bus.nc.flush()

    async def hello(self, agent_id: str) -> None:
        """Say that the agent has started."""
        agent = self.agents[agent_id]
        message = Hello(agent_id=agent_id, enrolment=agent.enrolment, at=unix_ms())
        await self._bus.publish_durable(subjects.evidence(agent_id), message, message_id=f"{agent_id}:hello:{unix_ms()}")

    async def notice(self, agent_id: str) -> None:
        """Say that the agent's IMA log has grown."""
        entries = len(self.agents[agent_id].log)
        message = ChangeNotice(agent_id=agent_id, entries=entries, at=unix_ms())
        await self._bus.publish_durable(subjects.evidence(agent_id), message, message_id=f"{agent_id}:change:{entries}")

    async def publish(self, evidence: Evidence) -> None:
        """Put ``evidence`` on the stream."""
        await self._bus.publish_durable(
            subjects.evidence(evidence.agent_id),
            evidence,
            message_id=f"{evidence.agent_id}:{evidence.enrolment}:{evidence.seq}",
        )

    async def _identity(self, query: AgentQuery) -> Identity:
        agent = self.agents.get(query.agent_id)
        if agent is None:
            raise UnknownAgentError(f"{query.agent_id} has not enrolled")
        return Identity(
            agent_id=agent.agent_id,
            ek_public=agent.tpm.ek_public,
            ak_public=agent.tpm.ak_public,
            transport_key=agent.transport_key,
            enrolment=agent.enrolment,
            ek_trust="accepted",
            at=unix_ms(),
        )

    async def _challenged(self, message: Any) -> None:
        challenge = _CHALLENGE.decode(message.data)
        agent = self.agents.get(challenge.agent_id)
        if agent is None or challenge.agent_id in self.silent:
            return
        await self.asked(agent, message.reply)
        evidence = agent.answer(challenge)
        self.answered += 1
        if not agent.is_news(evidence):
            await self._bus.nc.publish(message.reply, encode(evidence))
            return
        self.news += 1
        task = asyncio.ensure_future(self._deliver(evidence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, evidence: Evidence) -> None:
        try:
            await self.publish(evidence)
        except AttestreamError as error:
            self.failures.append(error.message)
