"""What the registrar has proven of an agent, asked for when an agent is added and when it has enrolled anew."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from attestream.bus.connection import Bus
from attestream.errors import MalformedError
from attestream.tpm.public import parse_public
from schemas import subjects
from schemas.enrolment import AgentQuery, Identity
from schemas.roles import Role
from services.verifier.attester import Attester


class _Keys(msgspec.Struct, frozen=True, array_like=True):
    """What a row keeps of an :class:`Identity`; a worker holds thousands, so nothing is held twice."""

    ak_public: bytes
    """TPM2B_PUBLIC."""
    transport: bytes
    """SHA-256 of the transport key."""


_DECODER: Final = msgspec.msgpack.Decoder(_Keys)


async def ask(bus: Bus, agent_id: str) -> Identity:
    """Return the registrar's record of ``agent_id``, signed by it in answer to this question.

    :raises UnknownAgentError: when it has not enrolled.
    :raises SignatureError: when the answer is not the registrar's.
    :raises MalformedError: when it is about another agent.
    :raises TimedOutError: when no registrar answers.
    """
    query = AgentQuery(agent_id=agent_id)
    identity = await bus.request(subjects.QUERY_REGISTRAR_AGENT, query, Identity, signed_by=(Role.REGISTRAR,))
    if identity.agent_id != agent_id:
        raise MalformedError(f"the registrar was asked for {agent_id} and told of {identity.agent_id}")
    return identity


def adopt(attester: Attester, identity: Identity) -> None:
    """Let ``attester`` be known by the keys of ``identity`` from now on."""
    attester.ak = parse_public(identity.ak_public)
    attester.transport = hashlib.sha256(identity.transport_key).digest()
    attester.enrolment = identity.enrolment


def stored(attester: Attester) -> bytes:
    """Return the keys of ``attester`` for :func:`adopt_stored`."""
    return msgspec.msgpack.encode(_Keys(attester.ak.tpm2b, attester.transport))


def adopt_stored(attester: Attester, data: bytes, enrolment: int) -> None:
    """Let ``attester`` be known by the keys in a row of the database.

    :raises MalformedError: when they are not what :func:`stored` returns.
    """
    try:
        keys = _DECODER.decode(data)
    except ValueError as error:
        raise MalformedError(f"the keys of {attester.agent_id} in the database can not be read: {error}") from error
    attester.ak = parse_public(keys.ak_public)
    attester.transport = keys.transport
    attester.enrolment = enrolment
