"""The whole of Attestream at work, each part with its own identity: the server refuses nothing of what they do."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.bus.stored import get_batch
from attestream.bus.topology import ensure_topology
from attestream.client import Client, CommandRefusedError, new_command_id, trusted
from attestream.credentials.document import Credentials, write
from attestream.credentials.nkey import Kind, NKey
from attestream.errors import AttestreamError, ForbiddenError
from attestream.installation.live import publish_roster
from devtools.cluster import Service, toml
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.secure_bus import secure_installation, secure_server, user_credentials
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import decode, encode
from schemas.commands import AddAgent, Attestation
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled, possession_bytes
from schemas.events import Standing
from schemas.roles import Role

AGENT = "host.one"
LOG_S = 40.0


class Machine:
    """A computer: it enrols with the shared credential and answers challenges under the identity that it was given."""

    def __init__(self, url: str, place) -> None:
        self.agent = make_agent(AGENT)
        self.key = NKey.generate(Kind.USER)
        self.revoked: list[str] = []
        self._url = url
        self._place = place
        self._bus = None

    async def enrol(self) -> Path:
        bus = await connect(BusSettings(urls=[self._url], credentials=self._place.credentials(Role.ENROLMENT)))
        request = self.agent.enrol_request(bus_key=self.key.public)
        challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
        proof = self.agent.proof(encode(request), encode(challenge))
        activate = ActivateRequest(
            agent_id=AGENT,
            challenge_id=challenge.challenge_id,
            proof=proof,
            bus_signature=self.key.sign(possession_bytes(challenge.challenge_id, proof)),
        )
        enrolled = await bus.request(subjects.REGISTRAR_ACTIVATE, activate, Enrolled)
        self.agent.enrolment = enrolled.enrolment
        await bus.close()
        path = self._place.directory / "machine.creds"
        path.write_text(write(Credentials(enrolled.bus_token, self.key)))
        path.chmod(0o600)
        return path

    async def run(self, credentials: Path) -> None:
        self._bus = await connect(BusSettings(urls=[self._url], credentials=credentials))
        await self._bus.subscribe(subjects.challenge(AGENT), self._asked)
        await self._bus.subscribe(subjects.REVOKED, self._heard)
        await self._bus.nc.flush()
        await get_batch(self._bus, "REVOCATIONS", {"seq": 1, "batch": 10, "next_by_subj": ">"})

    @property
    def cut_off(self) -> bool:
        return self._bus.nc.is_closed

    async def stop(self) -> None:
        if self._bus is not None:
            await self._bus.close()

    async def _asked(self, message) -> None:
        evidence = self.agent.answer(decode(message.data, Challenge))
        if not self.agent.is_news(evidence):
            await self._bus.publish(message.reply, evidence)
            return
        await self._bus.publish_durable(subjects.evidence(AGENT), evidence, message_id=secrets.token_hex(8))

    async def _heard(self, message) -> None:
        self.revoked.append(message.subject)


class Site:
    """An installation whose services run as processes, each with nothing but its own files."""

    def __init__(self, directory: Path) -> None:
        self.place = secure_installation(directory)
        self.server = secure_server(self.place)
        self._services: list[Service] = []
        self._clients: list[Client] = []

    async def start(self) -> None:
        self.server.start()
        provisioner = await connect(self._settings(self.place.credentials(Role.PROVISIONER)))
        await ensure_topology(provisioner)
        await provisioner.close()
        await publish_roster(self.place, [self.server.url])
        files = self.place
        identity = {
            "agent_issuer_file": str(files.issuer(Role.AGENT)),
            "agent_account_file": str(files.account_token(Role.AGENT)),
            "operator_key_file": str(files.operator_signing_seed),
            "system_credentials": str(files.system_credentials),
        }
        verifier = {"cluster_secret_file": str(files.cluster_secret), "lease_floor_s": 2.0}
        parts = [
            (Role.REGISTRAR, "registrar", {"accept_ek": "any", "database_url": self._database("registrar")} | identity),
            (Role.VERIFIER, "one", verifier | {"database_url": self._database("verifier"), "worker_id": "one"}),
            (Role.VERIFIER, "two", verifier | {"database_url": self._database("verifier"), "worker_id": "two"}),
            (Role.NOTIFIER, "notifier", {"webhooks": [{"name": "siem", "url": "http://127.0.0.1:9/", "timeout_s": 0.5}]}),
        ]
        for role, name, settings in parts:
            self._begin(role, name, settings)
        await asyncio.gather(*(service.ready() for service in self._services))

    async def client(self, role: Role, name: str) -> Client:
        """Return somebody who has ``role``; of those who sign, only the first admin has a key in the roster."""
        if role is Role.ADMIN:
            mine = self.place.operator(name)
            credentials, key = mine / "bus.creds", mine / "signing.pem"
        else:
            credentials, key = user_credentials(self.place, role, name), None
        bus = await connect(self._settings(credentials))
        await trusted(self.place.root_public, signing_key=key).start(bus)
        client = Client(bus)
        client.places = self.place.directory / "places"
        self._clients.append(client)
        return client

    def refusals(self) -> list[str]:
        """Return what the server has refused so far."""
        lines = self.server.log_path.read_text(errors="replace").splitlines()
        return [line.partition(" - ")[2] for line in lines if "Violation" in line]

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        for service in self._services:
            service.kill()
        self.server.stop()

    def _settings(self, credentials: Path) -> BusSettings:
        return BusSettings(urls=[self.server.url], credentials=credentials)

    def _database(self, kind: str) -> str:
        return f"sqlite:///{self.place.directory / kind}.db"

    def _begin(self, role: Role, name: str, settings: dict) -> None:
        sections = {
            "bus": {"urls": [self.server.url], "credentials": str(self.place.credentials(role))},
            "trust": {"root_keys": [str(self.place.root_public)]},
            str(role): settings | {"signing_key_file": str(self.place.service_key(role))},
        }
        config = self.place.directory / f"{name}.toml"
        config.write_text(toml(sections))
        service = Service(str(role), name, config, self.place.directory / f"{name}.log")
        self._services.append(service)
        service.start()


@pytest.fixture
async def site(tmp_path):
    site = Site(tmp_path / "installation")
    try:
        await site.start()
        yield site
    finally:
        await site.stop()


async def following(subscription, wanted):
    """Return the first item for which ``wanted`` holds."""
    async with asyncio.timeout(LOG_S):
        async for item in subscription:
            if wanted(item):
                return item
    raise AssertionError("the subscription has ended")


async def test_everybody_gets_by_with_its_own_permissions(site):
    machine = Machine(site.server.url, site.place)
    admin = await site.client(Role.ADMIN, "admin")
    observer = await site.client(Role.OBSERVER, "siem")
    auditor = await site.client(Role.AUDITOR, "auditor")
    revocations = observer.revocations("siem")
    results = observer.results()
    events = auditor.events(from_start=True)
    for subscription in (revocations, results, events):
        await subscription.start()

    await machine.run(await machine.enrol())
    await eventually(lambda: enough_workers(admin), LOG_S)
    await admin.push_policy("base", json.dumps(allowing("boot_aggregate")).encode())
    attestation = Attestation(policy="base", interval_ms=500)
    await admin.command(AddAgent(command_id=new_command_id(), agent_id=AGENT, attestation=attestation), timeout_s=LOG_S)
    await following(results, lambda item: item.standing is Standing.TRUSTED)
    for reader in (admin, auditor):
        assert (await reader.agent(AGENT)).standing is Standing.TRUSTED
        assert [view.agent_id for view in (await reader.fleet()).agents] == [AGENT]
        assert [record.name for record in await reader.policies()] == ["base"]
        assert (await reader.policy("base"))[1]

    machine.agent.run("/bin/evil", digest_of("evil"))
    revocation = await following(revocations, lambda item: item.agent_id == AGENT)
    await revocation.ack()
    await following(events, lambda item: item.event.standing is Standing.FAILED)
    await eventually(lambda: machine.cut_off, LOG_S)
    await machine.stop()
    await admin.delete_enrolment(AGENT)
    assert site.refusals() == []


async def enough_workers(client: Client) -> bool:
    return len(await client.workers()) == 2


async def test_who_may_not_is_refused_by_the_server_and_told_so(site):
    """The same things, asked for by those who may not."""
    observer = await site.client(Role.OBSERVER, "siem")
    operator = await site.client(Role.OPERATOR, "stranger")
    with pytest.raises(ForbiddenError):
        await observer.bus.publish_durable(subjects.result(AGENT), b"trusted", message_id="forged", timeout_s=3)
    with pytest.raises(AttestreamError):
        await observer.policies()
    # It may send commands, but the roster has no key of that name.
    command = AddAgent(command_id=new_command_id(), agent_id=AGENT, attestation=Attestation(policy="p", interval_ms=1000))
    with pytest.raises((AttestreamError, CommandRefusedError)):
        await operator.command(command, timeout_s=3)
    refused = {line.rsplit('"', 2)[1] for line in site.refusals()}
    assert refused == {subjects.result(AGENT), "$JS.API.DIRECT.GET.KV_attestream"}
