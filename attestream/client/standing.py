"""What is known of each agent, put together from results, verifiers and the registrar.

Only a live attestation result says ``trusted``: a verifier's row, or a result past its time, never does. Where results
are silent, the verifiers' word is taken for every other standing (pending, stopped, failed, unreachable), and
``enrolled`` is what the registrar alone knows. Everything else is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from attestream.client.forgotten import forgotten
from attestream.client.verification import believed
from attestream.errors import MalformedError, SignatureError, TimedOutError, UnknownAgentError
from schemas import subjects
from schemas.base import Decoder, SchemaError
from schemas.commands import AgentStatus, AgentStatusPage
from schemas.enrolment import AgentQuery, AgentsQuery, Identity, IdentityPage
from schemas.events import Finding, Result, Standing
from schemas.roles import Role
from schemas.topology import RESULTS

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.bus.stored import Stored

PAGE: Final = 500
"""Agents asked for at a time."""

_RESULT: Final = Decoder[Result](Result)
_VERIFIER: Final = (Role.VERIFIER,)
_REGISTRAR: Final = (Role.REGISTRAR,)


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one agent. Times are Unix ms, 0 where unknown."""

    agent_id: str
    standing: Standing
    policy: str = ""
    interval_ms: int = 0
    lease_ms: int = 0
    enrolment: int = 0
    enrolled_at: int = 0
    ek_trust: str = ""
    last_at: int = 0
    """The last good appraisal, or the appraisal that a live result rests on."""
    expires_at: int = 0
    """When the live result lapses."""
    attestations: int = 0
    ima_entries: int = 0
    worker: str = ""
    findings: list[Finding] = []


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All agents, in the order of their ids, and who answered."""

    agents: list[AgentView]
    verifier: bool
    """Whether a verifier answered; otherwise only results and enrolments are known."""
    registrar: bool
    """Whether the registrar answered."""
    rejected: list[str] = []
    """Subjects of results that are not believed: no verifier has signed them."""
    forgotten: list[str] = []
    """Agents that nobody attests although they were put under attestation (:mod:`attestream.client.forgotten`)."""


async def fleet(bus: Bus, *, now: int, timeout_s: float) -> Fleet:
    """Return what is known of every agent at ``now`` (Unix ms).

    :raises BusError: when the bus itself does not answer.
    """
    from attestream.bus.stored import last_messages

    stored, rejected = await believed(bus, await last_messages(bus, RESULTS.name, [subjects.RESULTS]))
    results = live_results(stored, now)
    statuses = await _statuses(bus, timeout_s)
    identities = await _identities(bus, timeout_s)
    rows = {status.agent_id: status for status in statuses or ()}
    enrolled = {identity.agent_id: identity for identity in identities or ()}
    ids = sorted({*results, *rows, *enrolled})
    unknown = [id_ for id_ in ids if id_ not in rows] if statuses is not None else []
    return Fleet(
        agents=[view(id_, results.get(id_), rows.get(id_), enrolled.get(id_), complete=statuses is not None) for id_ in ids],
        verifier=statuses is not None,
        registrar=identities is not None,
        rejected=rejected,
        forgotten=await forgotten(bus, unknown, now) if unknown else [],
    )


async def agent(bus: Bus, agent_id: str, *, now: int, timeout_s: float) -> AgentView:
    """Return what is known of one agent at ``now`` (Unix ms).

    :raises UnknownAgentError: when nobody knows it.
    :raises MalformedError: when ``agent_id`` is not an agent id.
    :raises SignatureError: when what is said of it is not signed by who may say it.
    :raises BusError: when the bus does not answer, or nobody who could know the agent does.
    """
    from attestream.bus.stored import last_messages

    try:
        subject = subjects.result(agent_id)
    except SchemaError as error:
        raise MalformedError(str(error)) from error
    stored, rejected = await believed(bus, await last_messages(bus, RESULTS.name, [subject]))
    if rejected:
        raise SignatureError(f"the result of {agent_id} is not signed by a verifier of this installation")
    results = live_results(stored, now)
    query = AgentQuery(agent_id=agent_id)
    status: AgentStatus | None = None
    identity: Identity | None = None
    silent: TimedOutError | None = None
    complete = True
    try:
        status = await bus.request(
            subjects.QUERY_VERIFIER_AGENT, query, AgentStatus, timeout_s=timeout_s, signed_by=_VERIFIER
        )
    except UnknownAgentError:
        pass
    except TimedOutError as error:
        silent, complete = error, False
    try:
        identity = await bus.request(
            subjects.QUERY_REGISTRAR_AGENT, query, Identity, timeout_s=timeout_s, signed_by=_REGISTRAR
        )
    except UnknownAgentError:
        pass
    except TimedOutError as error:
        silent = silent or error
    result = results.get(agent_id)
    if result is None and status is None and identity is None:
        if silent is not None:
            raise silent
        raise UnknownAgentError(f"there is no agent {agent_id}")
    return view(agent_id, result, status, identity, complete=complete)


def view(
    agent_id: str, result: Result | None, status: AgentStatus | None, identity: Identity | None, *, complete: bool
) -> AgentView:
    """Put together what is known of one agent. ``complete``: a verifier was heard, so that an agent without ``status`` is
    not under attestation. ``result`` must be live."""
    known: Result | AgentStatus | None = result if result is not None else status
    return AgentView(
        agent_id=agent_id,
        standing=standing(result, status, enrolled=identity is not None and complete),
        policy=status.policy if status else result.policy if result else "",
        interval_ms=status.interval_ms if status else 0,
        lease_ms=status.lease_ms if status else 0,
        enrolment=identity.enrolment if identity else known.enrolment if known else 0,
        enrolled_at=identity.at if identity else 0,
        ek_trust=identity.ek_trust if identity else "",
        last_at=result.at if result else status.last_at if status else 0,
        expires_at=result.expires_at if result else 0,
        attestations=status.attestations if status else 0,
        ima_entries=status.ima_entries if status else 0,
        worker=status.worker if status else result.worker if result else "",
        findings=known.findings if known else [],
    )


def standing(result: Result | None, status: AgentStatus | None, *, enrolled: bool) -> Standing:
    """Return the standing that a live result, a verifier's row and an enrolment amount to."""
    if result is not None and (
        status is None or status.standing is Standing.TRUSTED or status.event_number <= result.event_number
    ):
        return result.standing
    if status is not None:
        return Standing.UNKNOWN if status.standing is Standing.TRUSTED else status.standing
    return Standing.ENROLLED if enrolled else Standing.UNKNOWN


def live_results(stored: Iterable[Stored], now: int) -> dict[str, Result]:
    """Return the results that still hold at ``now`` (Unix ms), by agent. Delete markers and what is past its time are
    left out.

    :raises MalformedError: when the stream holds something that is no result.
    """
    live: dict[str, Result] = {}
    for message in stored:
        if message.marker or not message.data:
            continue
        try:
            result = _RESULT.decode(message.data)
        except SchemaError as error:
            raise MalformedError(f"{message.subject} holds no attestation result: {error}") from error
        if now < result.expires_at and subjects.result(result.agent_id) == message.subject:
            live[result.agent_id] = result
    return live


def counts(agents: Iterable[AgentView]) -> Mapping[Standing, int]:
    """Return how many agents have each standing; every standing is named."""
    found = dict.fromkeys(Standing, 0)
    for each in agents:
        found[each.standing] += 1
    return found


async def _statuses(bus: Bus, timeout_s: float) -> list[AgentStatus] | None:
    found: list[AgentStatus] = []
    more = True
    try:
        while more:
            query = AgentsQuery(after=found[-1].agent_id if found else "", limit=PAGE)
            page = await bus.request(
                subjects.QUERY_VERIFIER_AGENTS, query, AgentStatusPage, timeout_s=timeout_s, signed_by=_VERIFIER
            )
            found.extend(page.agents)
            more = page.more and bool(page.agents)
    except TimedOutError:
        return None
    return found


async def _identities(bus: Bus, timeout_s: float) -> list[Identity] | None:
    found: list[Identity] = []
    more = True
    try:
        while more:
            query = AgentsQuery(after=found[-1].agent_id if found else "", limit=PAGE)
            page = await bus.request(
                subjects.QUERY_REGISTRAR_AGENTS, query, IdentityPage, timeout_s=timeout_s, signed_by=_REGISTRAR
            )
            found.extend(page.identities)
            more = page.more and bool(page.identities)
    except TimedOutError:
        return None
    return found
