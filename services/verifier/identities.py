"""What the registrar has proven of an agent, asked for when an agent is added and when it has enrolled anew."""

from __future__ import annotations

import hashlib

from attestream.bus.connection import Bus
from attestream.tpm.public import parse_public
from schemas import subjects
from schemas.base import decode, encode
from schemas.enrolment import AgentQuery, Identity
from services.verifier.attester import Attester


async def ask(bus: Bus, agent_id: str) -> Identity:
    """Return the registrar's record of ``agent_id``.

    :raises UnknownAgentError: when it has not enrolled.
    :raises TimedOutError: when no registrar answers.
    """
    return await bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=agent_id), Identity)


def adopt(attester: Attester, identity: Identity) -> None:
    """Let ``attester`` be known by the keys of ``identity`` from now on."""
    attester.ak = parse_public(identity.ak_public)
    attester.transport = hashlib.sha256(identity.transport_key).digest()
    attester.enrolment = identity.enrolment
    attester.identity = encode(identity)


def adopt_stored(attester: Attester, data: bytes) -> None:
    """The same from a row of the database."""
    adopt(attester, decode(data, Identity))
