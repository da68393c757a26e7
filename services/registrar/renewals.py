"""Renews identities on the bus, for agents that are enrolled and in good standing.

Nothing is renewed while the record or the database can not be read. An agent asks when two thirds of an identity's life are
over and goes on asking, so the last third of the life is the grace that an outage has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.credentials.nkey import Kind, verify
from attestream.database import reading, transaction
from attestream.errors import AttestreamError, ExpiredError, ForbiddenError
from schemas.enrolment import Renewed, RenewRequest, renewal_bytes
from services.registrar import identities
from services.registrar.issuing import Issuer, Registration

WINDOW_MS: Final = 3_600_000
"""By how much an agent's clock may be wrong. An old request that is played again yields a token for the same key."""


class Renewals:
    """Answers requests for the next identity."""

    def __init__(self, engine: AsyncEngine, issuer: Issuer, clock: Callable[[], int]) -> None:
        self._engine = engine
        self._issuer = issuer
        self._clock = clock

    async def renew(self, request: RenewRequest) -> Renewed:
        """Return the next identity.

        :raises MalformedError: the key is no NKey.
        :raises SignatureError: the key has not signed the request, or not lately.
        :raises ForbiddenError: the agent is blocked or not enrolled, or has no identity with this key.
        :raises StorageError: the database does not answer.
        :raises BusError: the record can not be read.
        """
        covered = renewal_bytes(request.agent_id, request.bus_key, request.at)
        verify(request.bus_key, Kind.USER, request.signature, covered)
        if abs(self._clock() - request.at) > WINDOW_MS:
            raise ExpiredError("the request is of another time", remedy="Set the clock of the agent's machine.")
        try:
            registration = await self._without_writing(request) or await self._registered(request)
            token = await self._issuer.issue(request.agent_id, registration, outcome="renewed")
        except AttestreamError as error:
            self._issuer.refused(request.agent_id, error)
            raise
        return Renewed(agent_id=request.agent_id, bus_token=token)

    async def _registered(self, request: RenewRequest) -> Registration:
        async with transaction(self._engine) as connection:
            if not await identities.owners(connection, [request.agent_id]):
                raise ForbiddenError(f"agent {request.agent_id} is not enrolled", remedy="Enrol again.")
            return await self._issuer.register(connection, request.agent_id, request.bus_key)

    async def _without_writing(self, request: RenewRequest) -> Registration | None:
        async with reading(self._engine) as connection:
            return await self._issuer.renewable(connection, request.agent_id, request.bus_key)
