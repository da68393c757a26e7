"""What tests and the benchmark do with agents' identities on the bus: have them issued and renewed, and end them."""

from __future__ import annotations

import time
from pathlib import Path

from attestream.bus.connection import Bus, connect
from attestream.bus.settings import BusSettings
from attestream.clock import unix_ms
from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import NKey
from attestream.installation.places import Installation
from devtools.soft_agent import SoftAgent
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import (
    ActivateRequest,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    Renewed,
    RenewRequest,
    possession_bytes,
    renewal_bytes,
)
from schemas.events import Event, EventKind
from schemas.roles import Role


def registrar_config(installation: Installation, database: Path, *, lifetime_s: int = 600) -> RegistrarConfig:
    """Return the settings of a registrar that issues identities, with its state in the SQLite file ``database``."""
    return RegistrarConfig(
        database_url=DatabaseUrl(f"sqlite:///{database}"),
        accept_ek="any",
        agent_issuer_file=installation.issuer(Role.AGENT),
        operator_key_file=installation.operator_signing_seed,
        system_credentials=installation.system_credentials,
        agent_account_file=installation.account_token(Role.AGENT),
        identity_lifetime_s=lifetime_s,
    )


async def connect_with(url: str, credentials: Path | Credentials) -> Bus:
    """Return a connection with the credentials in a file, or with these."""
    path = credentials if isinstance(credentials, Path) else None
    identity = (lambda: credentials) if isinstance(credentials, Credentials) else None
    return await connect(BusSettings(urls=[url], name="test", reconnect_spread_s=0.1, credentials=path, identity=identity))


async def challenged(bus: Bus, request: EnrolRequest) -> EnrolChallenge:
    """Return the registrar's challenge."""
    return await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge, timeout_s=30)


def activation(agent: SoftAgent, request: EnrolRequest, challenge: EnrolChallenge, signer: NKey) -> ActivateRequest:
    """Return the proof of a challenge; ``signer`` shows that it is the key of the request."""
    proof = agent.proof(encode(request), encode(challenge))
    signature = signer.sign(possession_bytes(challenge.challenge_id, proof))
    return ActivateRequest(
        agent_id=agent.agent_id, challenge_id=challenge.challenge_id, proof=proof, bus_signature=signature
    )


async def enrolled(bus: Bus, agent: SoftAgent, key: NKey) -> Enrolled:
    """Take ``agent`` through the whole enrolment; the answer has an identity for ``key``, or the reason why not."""
    request = agent.enrol_request(bus_key=key.public)
    challenge = await challenged(bus, request)
    return await bus.request(subjects.REGISTRAR_ACTIVATE, activation(agent, request, challenge, key), Enrolled, timeout_s=30)


async def renewed(bus: Bus, agent_id: str, key: NKey, *, signer: NKey | None = None, at: int = 0) -> str:
    """Return the next identity."""
    at = at or unix_ms()
    signature = (signer or key).sign(renewal_bytes(agent_id, key.public, at))
    request = RenewRequest(agent_id=agent_id, bus_key=key.public, at=at, signature=signature)
    return (await bus.request(subjects.renewal(agent_id), request, Renewed, timeout_s=30)).bus_token


async def put_on_record(verifier: Bus, agent_id: str, kind: EventKind, *, recovery: str = "") -> None:
    """Say as a verifier what has happened to an agent."""
    event = Event(
        id=f"{kind}:{agent_id}:{time.monotonic_ns()}", kind=kind, agent_id=agent_id, at=unix_ms(), recovery=recovery
    )
    await verifier.publish_durable(subjects.event(kind, agent_id), event, message_id=event.id)
