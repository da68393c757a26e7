"""A real agent with a TPM on a secure bus, with a real registrar: in, cut off, and in again when an operator says so."""

import asyncio
import re
from contextlib import asynccontextmanager

import pytest

from attestream.bus.settings import BusSettings
from attestream.bus.topology import ensure_topology
from attestream.config import AgentConfig
from devtools.bus_identities import connect_with, put_on_record, registrar_config
from devtools.pool import eventually
from devtools.swtpm import Swtpm
from schemas.events import EventKind
from schemas.roles import Role
from services.agent.service import Agent
from services.registrar.service import serving

SECRET = re.compile(r"\bS[A-Z2-7]{57}\b|eyJ[A-Za-z0-9_-]{20}")
"""A seed, or a token."""


@pytest.fixture
async def buses(installation, secured):
    """A connection for each role that is asked for."""
    made = {}

    async def of(role):
        if role not in made:
            made[role] = await connect_with(secured.url, installation.credentials(role))
        return made[role]

    await ensure_topology(await of(Role.PROVISIONER))
    yield of
    for bus in made.values():
        await bus.close()


@asynccontextmanager
async def running(installation, secured, tcti, data_dir, agent_id="host.1"):
    config = AgentConfig(
        id=agent_id,
        tcti=tcti,
        data_dir=data_dir,
        ek="p256",
        ak="p256",
        ima_log=None,
        boot_log=None,
        enrolment_credentials=installation.credentials(Role.ENROLMENT),
    )
    settings = BusSettings(urls=[secured.url], name="agent", reconnect_spread_s=0.1)
    task = asyncio.create_task(Agent(config, settings).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def tpm(tmp_path):
    with Swtpm.launch(tmp_path / "swtpm", certificates=False) as made:
        yield made


async def test_agent_is_in_is_renewed_is_cut_off_and_comes_back_when_it_may(
    installation, secured, buses, tpm, tmp_path, caplog
):
    caplog.set_level("INFO")
    config = registrar_config(installation, tmp_path / "registrar.db", lifetime_s=4)
    verifier = await buses(Role.VERIFIER)

    def times(text):
        return caplog.text.count(text)

    async with serving(await buses(Role.REGISTRAR), config), running(installation, secured, tpm.tcti, tmp_path / "agent"):
        await eventually(lambda: times("agent host.1 is ready") == 1, 30)
        # Two renewals: the second is of an identity that was renewed, over the connection that was made with it.
        await eventually(lambda: times("the identity on the bus is renewed") >= 2, 60)
        assert times("agent host.1 is ready") == 1

        await put_on_record(verifier, "host.1", EventKind.FAILED)
        await eventually(lambda: "its identity on the bus was revoked" in caplog.text, 30)
        await eventually(lambda: "agent host.1 is cut off" in caplog.text, 30)
        assert "attestream agents start" in caplog.text
        assert times("agent host.1 is ready") == 1

        await put_on_record(verifier, "host.1", EventKind.STARTED)
        await eventually(lambda: times("agent host.1 is ready") == 2, 90)
    assert not SECRET.search(caplog.text)


async def test_another_tpm_with_the_credential_and_the_id_gets_nothing(installation, secured, buses, tpm, tmp_path, caplog):
    """CVE-2025-13609: the id of an agent is no secret, and new machines share the enrolment credential."""
    caplog.set_level("INFO")
    async with serving(await buses(Role.REGISTRAR), registrar_config(installation, tmp_path / "registrar.db")):
        async with running(installation, secured, tpm.tcti, tmp_path / "agent"):
            await eventually(lambda: "agent host.1 is ready" in caplog.text, 30)
        caplog.clear()
        with Swtpm.launch(tmp_path / "thief-tpm", certificates=False) as other:
            async with running(installation, secured, other.tcti, tmp_path / "thief"):
                await eventually(lambda: "belongs to another TPM" in caplog.text, 30)
        assert "agent host.1 is ready" not in caplog.text
