"""A disk in other hands: an agent's data directory, and the shared enrolment credential, on a machine with another TPM."""

import asyncio
import shutil

import pytest

from attestream.bus.settings import BusSettings
from attestream.bus.topology import ensure_topology
from attestream.config import AgentConfig
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.errors import AttestreamError
from devtools.bus_identities import connect_with, enrolled, registrar_config, renewed
from devtools.bus_probe import Probe
from devtools.pool import eventually, make_agent
from devtools.swtpm import Swtpm
from schemas import subjects
from schemas.enrolment import AgentQuery, Identity
from schemas.roles import Role
from services.agent.service import Agent
from services.registrar.service import serving

AGENT = "host.1"


@pytest.fixture
async def registrar(installation, secured, tmp_path):
    provisioner = await connect_with(secured.url, installation.credentials(Role.PROVISIONER))
    await ensure_topology(provisioner)
    bus = await connect_with(secured.url, installation.credentials(Role.REGISTRAR))
    async with serving(bus, registrar_config(installation, tmp_path / "registrar.db")):
        yield bus
    for each in (bus, provisioner):
        await each.close()


def agent(installation, secured, tpm, data_dir, kept):
    config = AgentConfig(
        id=AGENT,
        tcti=tpm.tcti,
        data_dir=data_dir,
        ek="p256",
        ak="p256",
        ima_log=None,
        boot_log=None,
        identity_key=kept,
        enrolment_credentials=installation.credentials(Role.ENROLMENT),
    )
    return Agent(config, BusSettings(urls=[secured.url], name="agent", reconnect_spread_s=0.1))


@pytest.mark.parametrize("kept", ["tpm", "file"])
async def test_a_stolen_disk_is_not_the_machine(installation, secured, registrar, tmp_path, caplog, kept):
    caplog.set_level("INFO")
    with (
        Swtpm.launch(tmp_path / "own", certificates=False) as own,
        Swtpm.launch(tmp_path / "other", certificates=False) as other,
    ):
        running = asyncio.create_task(agent(installation, secured, own, tmp_path / "data", kept).run())
        await eventually(lambda: f"agent {AGENT} is ready" in caplog.text, 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        caplog.clear()

        thief = asyncio.create_task(agent(installation, secured, other, tmp_path / "copy", kept).run())
        await eventually(lambda: "belongs to another TPM" in caplog.text, 30)
        thief.cancel()
        await asyncio.gather(thief, return_exceptions=True)
    assert f"agent {AGENT} is ready" not in caplog.text
    assert ("sealed by another TPM" in caplog.text) == (kept == "tpm")
    # No token is on the disk: what proves the key to the registrar for the next one needs a connection as the agent.
    assert not any(b"eyJ" in path.read_bytes() for path in (tmp_path / "copy").iterdir())


async def test_a_stolen_key_in_a_file_alone_gets_nobody_in(installation, secured, registrar, tmp_path):
    """``identity_key = "file"``: the thief has the key, and the enrolment credential that all new machines share."""
    victim, key = make_agent(AGENT), NKey.generate(Kind.USER)
    enrolment = await connect_with(secured.url, installation.credentials(Role.ENROLMENT))
    before = await enrolled(enrolment, victim, key)
    with pytest.raises(ConnectionError):
        await Probe.open(secured.url, Credentials("", key))
    with pytest.raises(AttestreamError):
        await renewed(enrolment, AGENT, key)
    # Enrolment as the victim needs its TPM.
    with pytest.raises(AttestreamError, match="belongs to another TPM"):
        await enrolled(enrolment, make_agent(AGENT), key)
    # With the token too it is the victim, until the token ends or is revoked; which no disk has.
    mine = await connect_with(secured.url, Credentials(before.bus_token, key))
    assert mine.nc.is_connected
    for bus in (mine, enrolment):
        await bus.close()


async def test_a_stolen_enrolment_credential_only_asks_for_enrolment(installation, secured, registrar, tmp_path):
    probe = await Probe.open(secured.url, installation.credentials(Role.ENROLMENT))
    for subject in (subjects.evidence(AGENT), subjects.result(AGENT), subjects.command(AGENT), subjects.renewal(AGENT)):
        assert not await probe.publish(subject)
    for subject in (">", subjects.challenge(AGENT), subjects.REVOKED, "_INBOX_agent.>"):
        assert not await probe.subscribe(subject)
    await probe.close()
    # Another machine's enrolment is its own, whoever asked: the thief's TPM gets an id that nobody has, if it is admitted.
    enrolment = await connect_with(secured.url, installation.credentials(Role.ENROLMENT))
    victim = make_agent(AGENT)
    await enrolled(enrolment, victim, NKey.generate(Kind.USER))
    with pytest.raises(AttestreamError, match="belongs to another TPM"):
        await enrolled(enrolment, make_agent(AGENT), NKey.generate(Kind.USER))
    verifier = await connect_with(secured.url, installation.credentials(Role.VERIFIER))
    known = await verifier.request(subjects.QUERY_REGISTRAR_AGENT, AgentQuery(agent_id=AGENT), Identity)
    assert known.ak_public == victim.tpm.ak_public
    for bus in (enrolment, verifier):
        await bus.close()
