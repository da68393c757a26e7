"""Identities on the bus: issued for a proof, renewed in good standing, and ended by the record. On a real secure server."""

import asyncio
import time

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.topology import ensure_topology
from attestream.clock import unix_ms
from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read
from attestream.errors import AttestreamError
from devtools.pool import eventually
from devtools.secure_bus import secure_installation, secure_server
from schemas import subjects
from schemas.base import encode
from schemas.enrolment import (
    ActivateRequest,
    EnrolChallenge,
    Enrolled,
    Renewed,
    RenewRequest,
    possession_bytes,
    renewal_bytes,
)
from schemas.events import Event, EventKind
from schemas.roles import Role
from services.registrar.service import serving

LIFETIME_S = 600


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    return secure_installation(tmp_path_factory.mktemp("installation"))


@pytest.fixture
def server(installation, tmp_path):
    # The streams and accounts of this test alone, with the keys of all.
    server = secure_server(installation._replace(directory=installation.directory))
    server.store_dir = tmp_path / "bus"
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def connected(installation, server):
    """Connects with the identity of a role, or with credentials."""
    open_ = []

    async def run(role=None, credentials=None):
        path = installation.credentials(role) if role else None
        identity = (lambda: credentials) if credentials else None
        bus = await connect(
            BusSettings(urls=[server.url], credentials=path, identity=identity, name="test", reconnect_spread_s=0.1)
        )
        open_.append(bus)
        return bus

    provisioner = await run(Role.PROVISIONER)
    await ensure_topology(provisioner)
    yield run
    for bus in open_:
        await bus.close()


@pytest.fixture
def config(installation, tmp_path):
    return RegistrarConfig(
        database_url=DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"),
        accept_ek="any",
        agent_issuer_file=installation.issuer(Role.AGENT),
        operator_key_file=installation.operator_signing_seed,
        system_credentials=installation.system_credentials,
        agent_account_file=installation.account_token(Role.AGENT),
        identity_lifetime_s=LIFETIME_S,
    )


@pytest.fixture
async def enrolment(connected):
    return await connected(Role.ENROLMENT)


@pytest.fixture
async def verifier(connected):
    return await connected(Role.VERIFIER)


@pytest.fixture
async def bus(connected):
    return await connected(Role.REGISTRAR)


async def ask(enrolment, agent, key, *, signer=None, wanted=None) -> Enrolled:
    request = agent.enrol_request(bus_key=key.public if wanted is None else wanted)
    challenge = await enrolment.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
    proof = agent.proof(encode(request), encode(challenge))
    activate = ActivateRequest(
        agent_id=agent.agent_id,
        challenge_id=challenge.challenge_id,
        proof=proof,
        bus_signature=(signer or key).sign(possession_bytes(challenge.challenge_id, proof)),
    )
    return await enrolment.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)


async def renewed(bus, agent_id, key, *, signer=None, at=None) -> str:
    at = at or unix_ms()
    signature = (signer or key).sign(renewal_bytes(agent_id, key.public, at))
    request = RenewRequest(agent_id=agent_id, bus_key=key.public, at=at, signature=signature)
    return (await bus.request(subjects.renewal(agent_id), request, Renewed)).bus_token


async def tell(verifier, agent_id, kind) -> None:
    event = Event(id=f"{kind}:{agent_id}:{time.monotonic_ns()}", kind=kind, agent_id=agent_id, at=unix_ms())
    await verifier.publish_durable(subjects.event(kind, agent_id), event, message_id=event.id)


def user() -> NKey:
    return NKey.generate(Kind.USER)


async def test_whole_life_of_an_identity(bus, config, connected, enrolment, verifier, make_agent):
    agent, key = make_agent("host.one"), user()
    async with serving(bus, config):
        first = await ask(enrolment, agent, key)
        token = read(first.bus_token)
        assert (token.subject, token.name) == (key.public, "host%2Eone")
        assert token.expires_at - token.issued_at == LIFETIME_S
        mine = await connected(credentials=Credentials(first.bus_token, key))

        second = await renewed(mine, "host.one", key)
        assert read(second).subject == key.public

        await tell(verifier, "host.one", EventKind.FAILED)
        await eventually(lambda: mine.nc.is_closed)
        for old in (first.bus_token, second):
            with pytest.raises(AttestreamError):
                await connected(credentials=Credentials(old, key))

        # The agent can not come back by itself, with this key or another.
        for again in (key, user()):
            refused = await ask(enrolment, agent, again)
            assert refused.bus_token == ""
            assert "failed" in refused.bus_refusal
            assert "attestream agents" in refused.bus_refusal

        # An operator lets it in.
        await tell(verifier, "host.one", EventKind.STARTED)

        async def admitted():
            await asyncio.sleep(0.2)
            return (await ask(enrolment, agent, key)).bus_token

        fresh = await eventually(admitted)
        assert (await connected(credentials=Credentials(fresh, key))).nc.is_connected
        with pytest.raises(AttestreamError):
            await connected(credentials=Credentials(first.bus_token, key))
