"""Enrolment by credential activation: an agent proves that its AK and its EK live in one TPM.

The proof is ``HMAC-SHA256(secret, transcript)``, where the transcript is
``b"attestream/enrol/1"`` followed by the request and the challenge exactly as they travelled, each behind its length as u32
big-endian (:func:`transcript`). The secret comes out of ``TPM2_ActivateCredential`` (TPM 2.0 Part 1, section 24).

The request names the NKey for which the agent wants an identity on the bus, so the proof covers it: nobody on the way can
put another in its place. That the agent holds this key it shows by a signature over the proof (:func:`possession_bytes`).
"""

from __future__ import annotations

import hashlib

from schemas.base import Message, Part

MAX_CERTIFICATES = 8
"""Most certificates of one key in a request."""


class DeviceIdentity(Part, kw_only=True, frozen=True):
    """The maker's device identity: an initial attestation key (IAK) that certifies the AK (TCG TPM 2.0 Keys for Device
    Identity and Attestation)."""

    iak_public: bytes
    """TPM2B_PUBLIC of the IAK."""
    iak_certificates: list[bytes]
    """DER, the IAK's own certificate first, then its intermediates; at most :data:`MAX_CERTIFICATES`."""
    attest: bytes
    """TPMS_ATTEST of TPM2_Certify: the AK certified by the IAK, with :func:`certified_data` as qualifying data."""
    signature: bytes
    """TPMT_SIGNATURE of the IAK over ``attest``."""
    idevid_public: bytes = b""
    """TPM2B_PUBLIC of the IDevID key; empty when there is none."""
    idevid_certificates: list[bytes] = []
    """As ``iak_certificates``, of the IDevID."""


class EnrolRequest(Message, kw_only=True, frozen=True, tag="enrol"):
    """Asks the registrar for a challenge. Changes nothing in an existing record."""

    agent_id: str
    ek_public: bytes
    """TPM2B_PUBLIC of the endorsement key."""
    ek_certificates: list[bytes] = []
    """DER, the EK's own certificate first, then its intermediates; at most :data:`MAX_CERTIFICATES`."""
    ak_public: bytes
    """TPM2B_PUBLIC of the attestation key."""
    transport_key: bytes
    """X25519 public key, 32 bytes: payloads are sealed to it and every quote binds it."""
    nonce: bytes
    """32 random bytes of the agent, so that two transcripts never agree."""
    device: DeviceIdentity | None = None
    """The maker's device identity, when the machine has one."""
    bus_key: str = ""
    """Public NKey (``U...``) that the agent wants an identity on the bus for; empty: none."""


class EnrolChallenge(Message, kw_only=True, frozen=True, tag="enrol-challenge"):
    """MakeCredential over the AK's name, to be opened by the TPM that holds the EK."""

    challenge_id: bytes
    credential: bytes
    """TPM2B_ID_OBJECT."""
    secret: bytes
    """TPM2B_ENCRYPTED_SECRET."""
    expires_at: int
    """Unix time in milliseconds."""


class ActivateRequest(Message, kw_only=True, frozen=True, tag="activate"):
    """Proves the activated secret. A challenge can be used once."""

    agent_id: str
    challenge_id: bytes
    proof: bytes
    """HMAC-SHA256 under the activated secret over the transcript."""
    bus_signature: bytes = b""
    """Ed25519 signature of the request's ``bus_key`` over :func:`possession_bytes`."""


class Enrolled(Message, kw_only=True, frozen=True, tag="enrolled"):
    """The registrar's confirmation."""

    agent_id: str
    ak_name: bytes
    """Name of the attestation key (TPM 2.0 Part 1, section 16)."""
    enrolment: int
    """1 for the first enrolment of this id, raised by each re-enrolment with a new key."""
    at: int
    """Unix time in milliseconds."""
    bus_token: str = ""
    """The agent's identity on the bus: a token for its ``bus_key``; empty when none was asked for or granted."""
    bus_refusal: str = ""
    """Why an identity that was asked for is not granted."""


class RenewRequest(Message, kw_only=True, frozen=True, tag="renew"):
    """Asks for the next identity on the bus, for the same NKey."""

    agent_id: str
    bus_key: str
    """Public NKey of the identity."""
    at: int
    """Unix time in milliseconds."""
    signature: bytes
    """Ed25519 signature of that NKey over :func:`renewal_bytes`."""


class Renewed(Message, kw_only=True, frozen=True, tag="renewed"):
    """The next identity."""

    agent_id: str
    bus_token: str
    """A token for the same NKey."""


class AgentQuery(Message, kw_only=True, frozen=True, tag="agent-query"):
    """Asks the registrar or a verifier for one agent."""

    agent_id: str


class AgentsQuery(Message, kw_only=True, frozen=True, tag="agents-query"):
    """Asks for a page of agents in the order of their ids."""

    after: str = ""
    """Ids greater than this one."""
    limit: int = 500
    """Most agents of the page; at most 500 are answered."""


class Identity(Message, kw_only=True, frozen=True, tag="identity"):
    """What the registrar knows of an active agent."""

    agent_id: str
    ek_public: bytes
    """TPM2B_PUBLIC of the endorsement key."""
    ak_public: bytes
    """TPM2B_PUBLIC of the attestation key."""
    transport_key: bytes
    """X25519 public key, 32 bytes."""
    enrolment: int
    ek_trust: str
    """How the TPM was vouched for: ``certificate`` (of the EK), ``iak`` (the maker's device identity), ``hook``, or
    ``accepted`` (by configuration)."""
    at: int
    """Unix time of the enrolment in milliseconds."""


class IdentityPage(Message, kw_only=True, frozen=True, tag="identity-page"):
    """A page of identities."""

    identities: list[Identity]
    more: bool


class DeleteIdentity(Message, kw_only=True, frozen=True, tag="identity-delete"):
    """Removes an enrolment, so that the id is free for another TPM."""

    agent_id: str


class Done(Message, kw_only=True, frozen=True, tag="done"):
    """An empty confirmation."""


class Refused(Message, kw_only=True, frozen=True, tag="refused"):
    """The answer to any request that was not granted."""

    code: str
    """Stable, of ``attestream.errors``."""
    message: str
    remedy: str = ""


def certified_data(request: EnrolRequest) -> bytes:
    """Return the qualifying data with which an IAK certifies the AK of ``request``.

    It is SHA-256 over ``b"attestream/certify/2"`` and the request's agent id, EK, transport key, nonce and key for the bus,
    each behind its length as u32 big-endian. The EK is one of them: who could put his own in its place would pass for the
    machine, as he opens the challenge.
    """
    fields = (request.agent_id.encode(), request.ek_public, request.transport_key, request.nonce, request.bus_key.encode())
    body = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return hashlib.sha256(b"attestream/certify/2" + body).digest()


def transcript(request: bytes, challenge: bytes) -> bytes:
    """Return the bytes that the enrolment proof covers."""
    return b"".join(
        (
            b"attestream/enrol/1",
            len(request).to_bytes(4, "big"),
            request,
            len(challenge).to_bytes(4, "big"),
            challenge,
        )
    )


def possession_bytes(challenge_id: bytes, proof: bytes) -> bytes:
    """Return what the NKey of an enrolment signs."""
    return b"attestream/bus-key/1\x00" + len(challenge_id).to_bytes(4, "big") + challenge_id + proof


def renewal_bytes(agent_id: str, bus_key: str, at: int) -> bytes:
    """Return what the NKey of an identity signs to have it renewed."""
    return b"attestream/renew/1\x00" + f"{agent_id}\x00{bus_key}\x00{at}".encode()
