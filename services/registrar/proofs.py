"""Judges proofs of enrolment, many in one transaction. Each has an outcome of its own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from attestream.errors import EnrolmentError, ForbiddenError, MalformedError, RefusedError, SignatureError
from schemas.enrolment import ActivateRequest, Enrolled
from schemas.events import Event, EventKind, Finding, Standing
from services.registrar import challenges, identities, outbox
from services.registrar.challenges import Pending
from services.registrar.identities import Recorded
from services.registrar.issuing import Issuer, Registration, check_possession

_FINDINGS: Final = msgspec.msgpack.Decoder(list[Finding])
_NO_FINDINGS: Final = msgspec.msgpack.encode([])
"""Of challenges from before there were findings."""


class Proven(NamedTuple):
    """A proof that is right."""

    enrolled: Enrolled
    registration: Registration | RefusedError | None
    """Of the key for the bus, or why it gets no identity; None when none was asked for."""


Refusal = EnrolmentError | SignatureError | MalformedError


async def judge(
    connection: AsyncConnection, requests: Sequence[ActivateRequest], issuer: Issuer | None, *, now: int
) -> list[Proven | Refusal]:
    """Judge proofs, use their challenges up, and record what they come to.

    Refusals are returned, not raised: the use of the challenges must be committed.
    """
    pending = await challenges.take(connection, [(one.challenge_id, one.agent_id) for one in requests])
    checked = [_check(one, challenge, now) for one, challenge in zip(requests, pending, strict=True)]
    claims = [(one.agent_id, good.claims) for one, good in zip(requests, checked, strict=True) if isinstance(good, Pending)]
    recorded = iter(await identities.record(connection, claims, now))
    outcomes = [next(recorded) if isinstance(good, Pending) else good for good in checked]
    proven: list[tuple[ActivateRequest, Pending, Recorded]] = []
    for one, good, outcome in zip(requests, checked, outcomes, strict=True):
        if isinstance(good, Pending) and isinstance(outcome, Recorded):
            proven.append((one, good, outcome))
    await outbox.add(connection, *(_told(*one, now) for one in proven if one[2].changed))
    registered = iter(await _registered(connection, [(one.agent_id, good.bus_key) for one, good, _ in proven], issuer))
    enrolled = iter([_enrolled(*one) for one in proven])
    return [Proven(next(enrolled), next(registered)) if isinstance(outcome, Recorded) else outcome for outcome in outcomes]


def _check(request: ActivateRequest, pending: Pending | None, now: int) -> Pending | Refusal:
    """Return the challenge that a proof fits, or why it fits none."""
    if pending is None:
        return EnrolmentError("no such challenge: it was used, replaced or never made", remedy="Enrol again.")
    if pending.expires_at <= now:
        return EnrolmentError("the challenge has expired", remedy="Enrol again, and activate sooner.")
    # Digests are compared: the awaited proof itself is not kept.
    if not hmac.compare_digest(hashlib.sha256(request.proof).digest(), pending.proof_digest):
        return EnrolmentError("the proof is wrong: this TPM does not hold both the EK and the AK")
    try:
        if pending.bus_key:
            check_possession(pending.bus_key, request)
    except (SignatureError, MalformedError) as error:
        return error
    return pending


def _told(request: ActivateRequest, pending: Pending, recorded: Recorded, now: int) -> Event:
    kind = EventKind.ENROLLED if recorded.first else EventKind.RE_ENROLLED
    findings = _FINDINGS.decode(pending.claims["findings"] or _NO_FINDINGS)
    return event(kind, request.agent_id, recorded.enrolment, now, findings)


def _enrolled(request: ActivateRequest, pending: Pending, recorded: Recorded) -> Enrolled:
    return Enrolled(
        agent_id=request.agent_id,
        ak_name=pending.claims["ak_name"],
        enrolment=recorded.enrolment,
        at=recorded.at,
    )


async def _registered(
    connection: AsyncConnection, wanted: Sequence[tuple[str, str]], issuer: Issuer | None
) -> list[Registration | RefusedError | None]:
    """Return what became of each agent's key for the bus."""
    asked = [one for one in wanted if one[1]]
    if issuer is None:
        outcomes: Iterator[Registration | RefusedError] = (ForbiddenError("no identities are issued here") for _ in asked)
    else:
        outcomes = iter(await issuer.register_all(connection, asked))
    return [next(outcomes) if key else None for _, key in wanted]


def event(kind: EventKind, agent_id: str, enrolment: int, now: int, findings: Sequence[Finding] = ()) -> Event:
    """Return an event about an enrolment; one kind happens once to each."""
    deleted = kind is EventKind.IDENTITY_DELETED
    return Event(
        id=f"{kind}:{agent_id}:{enrolment}",
        kind=kind,
        agent_id=agent_id,
        at=now,
        enrolment=enrolment,
        standing=Standing.UNKNOWN if deleted else Standing.ENROLLED,
        findings=list(findings),
    )
