"""Enrolment by credential activation (TPM 2.0 Part 1, section 24), and the queries about its outcome."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.database import reading, transaction
from attestream.errors import (
    AttestreamError,
    EnrolmentError,
    MalformedError,
    SupersededError,
)
from attestream.telemetry import ENROLMENTS, counter
from attestream.tpm.credential import make_credential
from attestream.trust.keyring import ANYBODY, Author
from schemas.base import encode
from schemas.enrolment import (
    ActivateRequest,
    AgentQuery,
    AgentsQuery,
    DeleteIdentity,
    Done,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    Identity,
    IdentityPage,
    transcript,
)
from schemas.events import EventKind
from schemas.subjects import AGENT_ID
from services.registrar import challenges, identities, outbox
from services.registrar.admission import Admitted, Rules, decide, examine
from services.registrar.challenges import Issued
from services.registrar.grouping import Group
from services.registrar.hook import Hook
from services.registrar.issuing import Issuer, Registration, check_key
from services.registrar.proofs import Proven, Refusal, event, judge

SECRET_BYTES: Final = 32
CHALLENGE_ID_BYTES: Final = 16
SWEEP_EVERY: Final = 256
"""Challenges of this replica between two sweeps: what a flood can add beyond the bound."""

_log = logging.getLogger(__name__)


class Registrar:
    """Answers the registrar's requests. Keeps nothing in memory: any replica can answer any of them."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        rules: Rules,
        hook: Hook | None = None,
        challenge_lifetime_ms: int,
        clock: Callable[[], int],
        recorded: Callable[[], None],
        issuer: Issuer | None = None,
    ) -> None:
        """:param hook: decides when the rules say so.
        :param recorded: called after an event was written to the outbox.
        :param issuer: gives agents their identities on the bus; without one they get none.
        """
        self._engine = engine
        self._issuer = issuer
        self._rules = rules
        self._hook = hook
        self._lifetime_ms = challenge_lifetime_ms
        self._clock = clock
        self._recorded = recorded
        self._since_sweep = 0
        self._counter = counter(ENROLMENTS)
        self._challenges = Group[Issued, EnrolmentError | None](self._keep)
        self._proofs = Group[ActivateRequest, Proven | Refusal](self._judge)

    async def enrol(self, request: EnrolRequest, raw: bytes) -> EnrolChallenge:
        """Challenge an agent. An active record is not touched.

        :param raw: the request exactly as it travelled: the proof covers it.
        :raises EnrolmentError: when the request is not admitted or the id belongs to another TPM.
        :raises MalformedError: when a field is out of bounds or no TPM structure.
        :raises StorageError: when the database does not answer.
        """
        now = self._clock()
        check_key(request.bus_key)
        admitted = await self._admit(request, now)
        secret = secrets.token_bytes(SECRET_BYTES)
        credential, encrypted = make_credential(admitted.ek, admitted.ak.name, secret)
        challenge = EnrolChallenge(
            challenge_id=secrets.token_bytes(CHALLENGE_ID_BYTES),
            credential=credential,
            secret=encrypted,
            expires_at=now + self._lifetime_ms,
        )
        proof = hmac.digest(secret, transcript(raw, encode(challenge)), "sha256")
        issued = Issued(
            challenge_id=challenge.challenge_id,
            agent_id=request.agent_id,
            issued_at=now,
            expires_at=challenge.expires_at,
            proof_digest=hashlib.sha256(proof).digest(),
            admitted=admitted,
            transport_key=request.transport_key,
            bus_key=request.bus_key,
        )
        if (refusal := await self._challenges.submit(issued)) is not None:
            raise refusal
        return challenge

    async def _keep(self, issued: list[Issued]) -> list[EnrolmentError | None]:
        """Store challenges, unless the id is another TPM's; return the refusals."""
        async with transaction(self._engine) as connection:
            owners = await identities.owners(connection, [one.agent_id for one in issued])
            theirs = [owners.get(one.agent_id, one.admitted.ek.tpm2b) == one.admitted.ek.tpm2b for one in issued]
            kept = [one for one, free in zip(issued, theirs, strict=True) if free]
            await challenges.add(connection, kept)
            self._since_sweep += len(kept)
            if self._since_sweep >= SWEEP_EVERY:
                await challenges.sweep(connection, now=self._clock())
                self._since_sweep = 0
        return [None if free else identities.taken(one.agent_id) for one, free in zip(issued, theirs, strict=True)]

    async def _admit(self, request: EnrolRequest, now: int) -> Admitted:
        try:
            examined = examine(request, self._rules, now=now)
            if self._rules.accept_ek == "hook":
                if self._hook is None:
                    raise EnrolmentError("the registrar has no hook to ask")
                await self._hook.ask(request, examined)
            return decide(examined, self._rules.accept_ek)
        except EnrolmentError as error:
            self._counter.add(1, {"outcome": "refused"})
            _log.warning("agent %s is not admitted: %s", request.agent_id[:100], error.message)
            raise

    async def activate(self, request: ActivateRequest) -> Enrolled:
        """Judge a proof. It uses the challenge up, whatever the outcome, in the transaction that records the outcome.

        :raises EnrolmentError: when there is no such challenge any more, the proof is wrong, or the id is another TPM's.
        :raises StorageError: when the database does not answer; then the challenge is still good.
        """
        if not AGENT_ID.match(request.agent_id):
            raise MalformedError("the agent id is not 1-80 characters of A-Z a-z 0-9 . _ -")
        outcome = await self._proofs.submit(request)
        if isinstance(outcome, AttestreamError):
            self._counter.add(1, {"outcome": "refused"})
            _log.warning("enrolment of %r refused: %s", request.agent_id[:100], outcome.message)
            raise outcome
        self._counter.add(1, {"outcome": "enrolled"})
        self._recorded()
        enrolled, registration = outcome
        _log.info("agent %s enrolled as number %d", enrolled.agent_id, enrolled.enrolment)
        return await self._with_identity(enrolled, registration) if registration is not None else enrolled

    async def _judge(self, requests: list[ActivateRequest]) -> list[Proven | Refusal]:
        async with transaction(self._engine) as connection:
            return await judge(connection, requests, self._issuer, now=self._clock())

    async def _with_identity(self, enrolled: Enrolled, registration: Registration | AttestreamError) -> Enrolled:
        """Return the confirmation with an identity on the bus, or with the reason why there is none."""
        if self._issuer is None:
            return replace(enrolled, bus_refusal="this registrar issues no identities on the bus")
        try:
            if isinstance(registration, AttestreamError):
                raise registration
            token = await self._issuer.issue(enrolled.agent_id, registration, outcome="issued")
        except AttestreamError as error:
            return replace(enrolled, bus_refusal=self._issuer.refused(enrolled.agent_id, error))
        return replace(enrolled, bus_token=token)

    async def delete(self, request: DeleteIdentity, author: Author = ANYBODY) -> Done:
        """Remove an enrolment and its pending challenges, as ``author`` asks: the id is free.

        :raises UnknownAgentError: when there is none.
        :raises SupersededError: when the agent has enrolled since the request was signed.
        :raises StorageError: when the database does not answer.
        """
        async with transaction(self._engine) as connection:
            enrolment, since = await identities.remove(connection, request.agent_id)
            if author.key_id and author.signed_at < since:
                # An old request that was kept and is sent again must not end what has begun since.
                raise SupersededError(f"{request.agent_id} has enrolled since the request was signed")
            await challenges.forget(connection, request.agent_id)
            deleted = event(EventKind.IDENTITY_DELETED, request.agent_id, enrolment, self._clock())
            await outbox.add(connection, replace(deleted, actor=author.name, actor_key=author.key_id))
        self._recorded()
        _log.info("identity of agent %s deleted", request.agent_id)
        return Done()

    async def identity(self, query: AgentQuery) -> Identity:
        """Return an active identity.

        :raises UnknownAgentError: when there is none.
        :raises StorageError: when the database does not answer.
        """
        async with reading(self._engine) as connection:
            return await identities.find(connection, query.agent_id)

    async def identities(self, query: AgentsQuery) -> IdentityPage:
        """Return a page of active identities.

        :raises StorageError: when the database does not answer.
        """
        async with reading(self._engine) as connection:
            return await identities.page(connection, query)

    async def sweep(self) -> int:
        """Remove expired and surplus challenges; return how many are pending.

        :raises StorageError: when the database does not answer.
        """
        async with transaction(self._engine) as connection:
            return await challenges.sweep(connection, now=self._clock())
