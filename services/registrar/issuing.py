"""Issues agents' identities on the bus: short-lived, each for one key, and only to agents in good standing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.bus.connection import Bus
from attestream.credentials.nkey import Kind, NKey, decode_public, verify
from attestream.credentials.token import role_tag, user_token
from attestream.errors import AttestreamError, ForbiddenError, MalformedError, RefusedError
from attestream.telemetry import BUS_IDENTITIES, counter
from schemas import subjects
from schemas.enrolment import ActivateRequest, possession_bytes
from schemas.roles import Role
from services.registrar import bus_keys, machines, standing
from services.registrar.grouping import Group

_log = logging.getLogger(__name__)

_REMEDY: Final = "Find out why it failed; then re-admit it: `attestream agents start`, `update` or `add`."


class Registration(NamedTuple):
    """A key that gets an identity on the bus."""

    key: str
    issued_at: int
    """Unix seconds that the identity is to be dated with."""
    others: tuple[str, ...] = ()
    """What else the agent's machine is enrolled as."""


class Issuer:
    """Holds the key whose signature makes an identity.

    An identity is granted in two steps. Within the transaction of a proof :meth:`register` notes the key, unless the agent
    is known to be blocked; an event that blocks it from then on revokes that key. After the transaction :meth:`issue` looks
    at the record itself, for events that have not come here yet, and signs.
    """

    def __init__(
        self, bus: Bus, key: Callable[[], NKey], account: str, *, lifetime_s: int, clock: Callable[[], int]
    ) -> None:
        """:param key: returns the key that issues at present.
        :param account: public key of the account that agents live in.
        :param clock: Unix time in milliseconds.
        """
        self._bus = bus
        self._key = key
        self._account = account
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._counter = counter(BUS_IDENTITIES)
        self._record = Group[str, standing.Decision](self._look)

    async def register(self, connection: AsyncConnection, agent_id: str, key: str) -> Registration:
        """Note that an agent gets a further identity for ``key``.

        :raises ForbiddenError: the agent is blocked, or has no identity with this key.
        """
        (outcome,) = await self.register_all(connection, [(agent_id, key)], known=True)
        if isinstance(outcome, RefusedError):
            raise outcome
        return outcome

    async def register_all(
        self, connection: AsyncConnection, wanted: Sequence[tuple[str, str]], *, known: bool = False
    ) -> list[Registration | RefusedError]:
        """Note that each agent gets an identity for a key; return what comes of it, or why it gets none.

        :param known: whether the agents must have these keys already.
        """
        if not wanted:
            return []
        agents = [agent_id for agent_id, _ in wanted]
        kept, others = await standing.all_kept(connection, agents), await machines.others(connection, agents)
        objections = [
            _objection(agent_id, kept.get(agent_id, standing.UNDECIDED), others.get(agent_id, {})) for agent_id in agents
        ]
        admitted = [one for one, objection in zip(wanted, objections, strict=True) if objection is None]
        now = self._clock() // 1000
        dates = iter(await bus_keys.register_all(connection, admitted, now=now, lifetime_s=self._lifetime_s, known=known))
        outcomes: list[Registration | RefusedError] = []
        for (agent_id, key), objection in zip(wanted, objections, strict=True):
            date = next(dates) if objection is None else objection
            also = tuple(others.get(agent_id, ()))
            outcomes.append(date if isinstance(date, RefusedError) else Registration(key, date, also))
        return outcomes

    async def renewable(self, connection: AsyncConnection, agent_id: str, key: str) -> Registration | None:
        """Return what :meth:`register` would, when it has nothing to note."""
        now = self._clock() // 1000
        issued_at = await bus_keys.renewable(connection, agent_id, key, now=now, lifetime_s=self._lifetime_s)
        return Registration(key, issued_at) if issued_at else None

    async def issue(self, agent_id: str, registration: Registration, *, outcome: str) -> str:
        """Return the identity.

        :param outcome: what it is counted as.
        :raises ForbiddenError: the record says that the agent is blocked, or that its machine has failed as another.
        :raises BusError: the record can not be read; then there is no identity.
        """
        decision, *others = await asyncio.gather(*map(self._record.submit, (agent_id, *registration.others)))
        failed = {other: found.failed for other, found in zip(registration.others, others, strict=True)}
        if (objection := _objection(agent_id, decision, failed)) is not None:
            raise objection
        self._counter.add(1, {"outcome": outcome})
        return user_token(
            self._key(),
            registration.key,
            subjects.token(agent_id),
            account=self._account,
            now=registration.issued_at,
            expires_at=registration.issued_at + self._lifetime_s,
            tags=[role_tag(Role.AGENT)],
        )

    async def _look(self, agent_ids: list[str]) -> list[standing.Decision]:
        return await standing.all_on_record(self._bus, agent_ids)

    def refused(self, agent_id: str, error: AttestreamError) -> str:
        """Count and log a refusal; return its text."""
        self._counter.add(1, {"outcome": "refused"})
        _log.warning("agent %s gets no identity on the bus: %s", agent_id, error.message)
        return f"{error.message}. {error.hint}"


def check_key(key: str) -> None:
    """Check the key in an enrolment request.

    :raises MalformedError: it is no public NKey of a user.
    """
    if key:
        decode_public(key, Kind.USER)


def check_possession(key: str, request: ActivateRequest) -> None:
    """Check that whoever proves an enrolment holds the key that it is for.

    :raises MalformedError: there is no signature of the right size.
    :raises SignatureError: it is not the key's.
    """
    if len(request.bus_signature) != 64:
        raise MalformedError("the proof bears no signature of the key for the bus")
    verify(key, Kind.USER, request.bus_signature, possession_bytes(request.challenge_id, request.proof))


def _objection(agent_id: str, decision: standing.Decision, others: machines.Ids) -> ForbiddenError | None:
    if decision.objection:
        return ForbiddenError(f"agent {agent_id} is cut off: {decision.objection}", remedy=_REMEDY)
    return next((machines.objection(agent_id, other) for other, failed in others.items() if failed), None)
