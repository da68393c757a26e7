"""Enrols the agent: proves to the registrar that its AK lives in the TPM of its EK."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import secrets
from concurrent.futures import Executor
from typing import Final

import msgspec
import nats.errors

from attestream.bus.connection import Bus
from attestream.credentials.nkey import NKey
from attestream.errors import AttestreamError, BusError, EnrolmentError, ForbiddenError, MalformedError, TimedOutError
from attestream.tpm.public import parse_public
from schemas import subjects
from schemas.base import Decoder, SchemaError, encode
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled, EnrolRequest, Refused, possession_bytes, transcript
from schemas.roles import Role
from services.agent.device_keys import DeviceIdentityError, DeviceKeys
from services.agent.identity import Identity
from services.agent.tpm_device import EndorsementKey, KeyLostError, TpmDevice

_log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_BACKOFF_S: Final = (0.25, 60.0)
_CUT_OFF: Final = "An operator has to let the agent in again; it goes on asking."
_ANSWER: Final = Decoder[EnrolChallenge | Refused](EnrolChallenge | Refused)


async def enrol(
    bus: Bus,
    tpm: TpmDevice,
    identity: Identity,
    executor: Executor,
    bus_key: NKey | None = None,
    device: DeviceKeys | None = None,
) -> tuple[Identity, str]:
    """Return ``identity``, enrolled with the TPM's AK, and the token for ``bus_key``; empty when there is no such key.

    Without a key that is at once when the AK is enrolled already. Tries until the registrar has granted all of it, with
    growing pauses: a refusal may end when an operator acts.

    :param executor: runs the blocking work on the TPM.
    :param bus_key: key for which the agent wants an identity on the bus.
    :param device: the maker's device identity, when it is to be shown.
    :raises TpmError: when the TPM can not give its keys, or a device identity that is required.
    :raises ConfigError: when the data directory can not be used.
    :raises BusError: when the connection is closed for good.
    """
    loop = asyncio.get_running_loop()
    ak_public = await loop.run_in_executor(executor, tpm.attestation_key)
    if bus_key is None and identity.enrolment and identity.ak_public == ak_public:
        return identity, ""
    ek = await loop.run_in_executor(executor, tpm.endorsement_key)
    pause = _BACKOFF_S[0]
    while True:
        try:
            enrolled = await _attempt(bus, tpm, identity, ek, ak_public, executor, bus_key, device)
            if bus_key is not None and not enrolled.bus_token:
                raise ForbiddenError(enrolled.bus_refusal or "the registrar issues no identities", remedy=_CUT_OFF)
        except (KeyLostError, DeviceIdentityError):
            raise
        except AttestreamError as error:
            _log.warning("not enrolled yet: %s (%s)", error, error.hint)
        else:
            _log.info("enrolled as %s, enrolment %d", identity.agent_id, enrolled.enrolment)
            enrolled_as = msgspec.structs.replace(identity, enrolment=enrolled.enrolment, ak_public=ak_public)
            return enrolled_as, enrolled.bus_token
        if bus.nc.is_closed:
            raise BusError("the bus has closed the connection for good")
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
        pause = min(2 * pause, _BACKOFF_S[1])


async def _attempt(
    bus: Bus,
    tpm: TpmDevice,
    identity: Identity,
    ek: EndorsementKey,
    ak_public: bytes,
    executor: Executor,
    bus_key: NKey | None,
    device: DeviceKeys | None,
) -> Enrolled:
    loop = asyncio.get_running_loop()
    asked = EnrolRequest(
        agent_id=identity.agent_id,
        ek_public=ek.public,
        ek_certificates=ek.certificates,
        ak_public=ak_public,
        transport_key=identity.transport_public,
        nonce=secrets.token_bytes(32),
        bus_key=bus_key.public if bus_key is not None else "",
    )
    if device is not None:
        asked = msgspec.structs.replace(asked, device=await loop.run_in_executor(executor, device.prove, asked))
    request = encode(asked)
    # The proof covers request and challenge as they travelled, so the reply's bytes are needed and not only its meaning.
    reply = await _ask(bus, request)
    try:
        challenge = _ANSWER.decode(reply)
    except SchemaError as error:
        raise MalformedError(f"the registrar's challenge can not be read: {error}") from error
    if isinstance(challenge, Refused):
        raise EnrolmentError(challenge.message, remedy=challenge.remedy)
    secret = await loop.run_in_executor(executor, tpm.activate, challenge.credential, challenge.secret)
    proof = hmac.new(secret, transcript(request, reply), hashlib.sha256).digest()
    possession = possession_bytes(challenge.challenge_id, proof)
    activate = ActivateRequest(
        agent_id=identity.agent_id,
        challenge_id=challenge.challenge_id,
        proof=proof,
        bus_signature=bus_key.sign(possession) if bus_key is not None else b"",
    )
    enrolled = await bus.request(
        subjects.REGISTRAR_ACTIVATE, activate, Enrolled, timeout_s=_TIMEOUT_S, signed_by=(Role.REGISTRAR,)
    )
    if enrolled.ak_name != parse_public(ak_public).name or enrolled.agent_id != identity.agent_id:
        raise MalformedError("the registrar has confirmed another enrolment than was asked for")
    return enrolled


async def _ask(bus: Bus, request: bytes) -> bytes:
    try:
        reply = await bus.replies.ask(subjects.REGISTRAR_ENROL, request, bus.headers(), _TIMEOUT_S)
    except (nats.errors.NoRespondersError, TimeoutError) as error:
        raise TimedOutError("the registrar does not answer") from error
    except nats.errors.Error as error:
        raise BusError(f"the registrar could not be asked: {error}") from error
    return bytes(reply.data)
