"""What nobody honest sends, on every subject of the contract: the receiver lives, and the next honest message works."""

import asyncio
import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor

import msgspec
import nats.errors
import pytest

from attestream.bus.partitions import partition
from attestream.bus.stored import last_messages
from attestream.config import DatabaseUrl, LimitsConfig, NotifierConfig, RegistrarConfig, VerifierConfig
from attestream.errors import BusError
from attestream.signing import Signer, TrustedKeys
from devtools.hostile_messages import disfigured, shapeless
from devtools.pool import Pool, Tenant, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from devtools.wire_examples import EXAMPLES
from schemas import channels, subjects, topology
from schemas.base import Decoder, SchemaError, encode
from schemas.channels import AGENT, SUBJECT
from schemas.commands import AgentStatus
from schemas.enrolment import ActivateRequest, AgentQuery, EnrolChallenge, Enrolled, Identity, Refused
from schemas.events import EventKind, Standing
from services.agent.answering import Answerer
from services.agent.belief import pinned
from services.agent.revocations import Revocations
from services.notifier.service import notifying
from services.registrar.service import serving
from services.verifier import attester

VICTIM = "agent-0"
HONEST = next(id_ for id_ in (f"agent-{number}" for number in itertools.count(1)) if partition(id_) == partition(VICTIM))
LISTENER = "listener"
REFUSED = Decoder(Refused)
POLICY = allowing("boot_aggregate", "/usr/bin/ls")


class Maker:
    """Makes the evidence of a software agent where the real agent asks its TPM."""

    def __init__(self, agent):
        self.agent = agent
        self.made = 0

    def make(self, challenge):
        self.made += 1
        return self.agent.answer(challenge)


class Installation:
    """Every service, in this process; the software fleet and one real answerer stand for agents."""

    def __init__(self, bus, tenant, fleet):
        self.bus, self.tenant, self.fleet = bus, tenant, fleet
        self.revoked = []
        self.count = 0

    async def enrol(self, agent):
        request = agent.enrol_request()
        challenge = await self.bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge, timeout_s=30)
        proof = agent.proof(encode(request), encode(challenge))
        activation = ActivateRequest(agent_id=agent.agent_id, challenge_id=challenge.challenge_id, proof=proof)
        agent.enrolment = (await self.bus.request(subjects.REGISTRAR_ACTIVATE, activation, Enrolled, timeout_s=30)).enrolment

    async def works(self, channel):
        """Do all that is honest: enrol, command, attest, fail, revoke."""
        self.count += 1
        newcomer = make_agent(f"new-{self.count}")
        self.fleet.agents[newcomer.agent_id] = newcomer
        await self.enrol(newcomer)
        assert (await self.tenant.add(newcomer.agent_id, interval_ms=60_000, lease_ms=120_000)).ok, channel
        await self.tenant.becomes(newcomer.agent_id, Standing.TRUSTED, timeout_s=30)
        await self.bus.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=HONEST), Identity, timeout_s=30)
        await self.bus.request(subjects.QUERY_VERIFIER_AGENT, AgentQuery(agent_id=HONEST), AgentStatus, timeout_s=30)
        await self.fleet.hello(HONEST)
        await self.tenant.becomes(HONEST, Standing.TRUSTED, timeout_s=30)
        newcomer.run("/usr/bin/evil", digest_of("evil"))
        await self.fleet.notice(newcomer.agent_id)
        await self.tenant.becomes(newcomer.agent_id, Standing.FAILED, timeout_s=30)
        await eventually(lambda: newcomer.agent_id in self.revoked, 20)


@pytest.fixture
async def installation(bus, nats_server, tmp_path, monkeypatch):
    # All that is sent shall be looked at.
    monkeypatch.setattr(attester, "ALLOWANCE", 1_000_000)
    fleet = SoftFleet(bus, [make_agent(VICTIM), make_agent(HONEST)])
    signer = Signer.generate(tmp_path / "revocation.pem")
    settings = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=2000, flush_ms=50, partition_lease_s=5)
    pool = Pool(nats_server.url, tmp_path, settings)
    config = RegistrarConfig(database_url=DatabaseUrl(f"sqlite:///{tmp_path}/registrar.db"), accept_ek="any")
    installed = Installation(bus, Tenant(bus), fleet)

    async def act(revocation):
        installed.revoked.append(revocation.agent_id)

    limits = LimitsConfig(enrolments_per_agent_min=10_000)
    async with serving(bus, config, limits=limits), notifying(bus, NotifierConfig(), signer):
        revocations = Revocations(bus, pinned(TrustedKeys.from_pems([signer.public_pem])), tmp_path, act)
        installed.maker = Maker(make_agent(LISTENER))
        answerer = Answerer(bus, LISTENER, installed.maker, ThreadPoolExecutor(1))
        await bus.subscribe(subjects.challenge(LISTENER), answerer.hear)
        installed.tasks = [asyncio.create_task(revocations.run()), asyncio.create_task(answerer.run())]
        await fleet.start()
        for agent in list(fleet.agents.values()):
            await installed.enrol(agent)
        await pool.start("one")
        assert (await installed.tenant.push("base", POLICY)).ok
        for agent_id in (VICTIM, HONEST):
            assert (await installed.tenant.add(agent_id, interval_ms=60_000, lease_ms=120_000)).ok
            await installed.tenant.becomes(agent_id, Standing.TRUSTED)
        yield installed
        for task in installed.tasks:
            assert not task.done()
            task.cancel()
        await fleet.stop()
        await pool.close()


def addresses(channel):
    """Return where the messages of ``channel`` go that are about the victim."""
    about = LISTENER if channel.name == "challenge" else VICTIM
    address = channel.address.replace(AGENT, about).replace(SUBJECT, about)
    address = address.replace("{partition}", str(partition(VICTIM))).replace("{stream}", topology.EVIDENCE.name)
    kinds = [kind.value for kind in EventKind] if "{kind}" in address else [""]
    return [address.replace("{kind}", kind) for kind in kinds]


def payloads(channel):
    """Yield hostile messages for ``channel``, made from honest ones about the victim."""
    yield from shapeless()
    about = LISTENER if channel.name == "challenge" else VICTIM
    for kind in channel.messages:
        example = EXAMPLES[str(kind.__struct_config__.tag)]
        if "agent_id" in kind.__struct_fields__:
            example = msgspec.structs.replace(example, agent_id=about)
        yield from disfigured(example)


async def attack(bus, channel):
    address, *others = addresses(channel)
    hostile = [(address, payload) for payload in payloads(channel)]
    hostile += [(other, payload) for other in others for payload in shapeless()]
    if channel.stream:
        outcomes = []
        for start in range(0, len(hostile), 50):
            outcomes += await asyncio.gather(*(store(bus, *one) for one in hostile[start : start + 50]))
        # What is larger than any evidence is refused by the server itself.
        assert sum(outcomes) > len(hostile) // 2, channel.name
    elif channel.reply and channel.name != "challenge":
        answers = await asyncio.gather(*(bus.replies.ask(*one, None, 60) for one in hostile))
        # Some are strange and taken all the same: a limit that is out of bounds, an extra field.
        assert sum(is_refusal(answer.data) for answer in answers) > len(hostile) // 2, channel.name
    else:
        for one in hostile:
            await bus.nc.publish(*one, reply=bus.nc.new_inbox() if channel.reply else "")
        await bus.nc.flush(30)


async def store(bus, address, payload):
    try:
        await bus.publish_durable(address, payload, message_id=uuid.uuid4().hex, timeout_s=30)
    except BusError:
        return False
    return True


def is_refusal(data):
    try:
        return bool(REFUSED.decode(data).code)
    except SchemaError:
        return False


RECEIVED = [
    channel for channel in channels.CHANNELS if all(str(kind.__struct_config__.tag) in EXAMPLES for kind in channel.messages)
]


@pytest.mark.parametrize("name", ["request", "stream", "core"])
async def test_every_receiver_lives_on(installation, name):
    bus = installation.bus
    for channel in RECEIVED:
        kind = "stream" if channel.stream else "request" if channel.reply and channel.name != "challenge" else "core"
        if kind == name and (kind != "request" or await listens(bus, addresses(channel)[0])):
            await attack(bus, channel)
            await installation.works(channel.name)
    assert bus.nc.is_connected


async def listens(bus, subject):
    """Return whether a service of this test answers on ``subject``."""
    try:
        await bus.replies.ask(subject, b"", None, 10)
    except nats.errors.NoRespondersError:
        return False
    return True


async def test_what_can_not_be_processed_is_kept_with_its_reason(installation):
    bus = installation.bus
    await bus.nc.publish(subjects.command(VICTIM), b"\xc1")
    await bus.nc.publish(subjects.evidence(VICTIM), b"\xc1")

    async def kept():
        return len(await last_messages(bus, topology.DEAD.name, [subjects.dead("COMMANDS"), subjects.dead("EVIDENCE")])) == 2

    await eventually(kept)


async def test_a_client_that_does_not_read_costs_others_nothing(installation, nats_server):
    """It subscribes to everything that it may and never reads: the server cuts it off, and nobody waits for it."""
    _, writer = await asyncio.open_connection(nats_server.host, nats_server.port, limit=1024)
    writer.write(b'CONNECT {"verbose":false}\r\nSUB att.> 1\r\n')
    await writer.drain()
    quiet = await asyncio.open_connection(nats_server.host, nats_server.port)
    for _ in range(300):
        await installation.bus.nc.publish("att.evidence.nobody.x", bytes(100_000))
    await installation.works("stalled")
    for stream in (writer, quiet[1]):
        stream.transport.abort()
