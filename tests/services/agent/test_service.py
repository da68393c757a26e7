"""The agent as a process, on a real bus, TPM and log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from attestream.bus.connection import Bus
from attestream.embedded.nats import NatsServer
from attestream.signing import Signer
from attestream.tpm.public import parse_public
from attestream.tpm.quote import verify_quote_signature
from devtools.evidence_stream import EvidenceStream, Sent
from devtools.ima_emulator import ImaEmulator
from devtools.soft_registrar import SoftRegistrar
from devtools.swtpm import Swtpm
from schemas import subjects
from schemas.attestation import Challenge, ChangeNotice, Evidence, Hello, qualifying_data
from schemas.events import Revocation, Standing

ROOT = Path(__file__).parents[3]


def hellos(found: list[Sent]) -> int:
    return sum(isinstance(one.message, Hello) for one in found)


@pytest.fixture
def config(nats_server: NatsServer, swtpm: Swtpm, emulator: ImaEmulator, tmp_path: Path) -> Path:
    hook = tmp_path / "hook.py"
    hook.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
    (tmp_path / "notifier.pub").write_text(Signer.generate(tmp_path / "notifier.pem").public_pem)
    path = tmp_path / "attestream.toml"
    path.write_text(
        f"""[bus]
urls = ["{nats_server.url}"]
reconnect_spread_s = 0.1
[agent]
id = "host.1"
tcti = "{swtpm.tcti}"
data_dir = "agent"
ek = "p256"
ak = "p256"
ima_log = "{emulator.binary_log}"
poll_ms = 20
revocation_keys = ["notifier.pub"]
revocation_hook = ["{sys.executable}", "{hook}", "{tmp_path / "heard.json"}"]
"""
    )
    return path


@pytest.fixture
async def agent(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "services.agent", "--config", str(config))
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=config.parent)
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_the_life_of_an_agent(
    agent: asyncio.subprocess.Process,
    bus: Bus,
    stream: EvidenceStream,
    nats_server: NatsServer,
    emulator: ImaEmulator,
    tmp_path: Path,
) -> None:
    registrar = SoftRegistrar(bus, enrolment=7)
    await registrar.start()
    ((_, hello),) = await stream.count(1)
    assert isinstance(hello, Hello)
    assert (hello.agent_id, hello.enrolment, registrar.proven) == ("host.1", 7, [True])

    at = time.time_ns() // 1_000_000
    challenge = Challenge(
        agent_id="host.1", nonce=b"n", seq=1, issued_at=at, deadline=at + 5_000, banks={"sha256": [0, 10]}, ima_from=0
    )
    await bus.publish(subjects.challenge("host.1"), challenge)
    evidence = (await stream.count(2))[1].message
    assert isinstance(evidence, Evidence)
    request = registrar.requests[0]
    quote = verify_quote_signature(parse_public(request.ak_public), evidence.quote, evidence.signature)
    assert quote.extra_data == qualifying_data(b"n", "host.1", evidence.transport_key)
    assert evidence.enrolment == 7

    emulator.run("/bin/evil", b"evil")
    notice = (await stream.count(3))[2].message
    assert isinstance(notice, ChangeNotice)
    assert notice.entries == 2

    revocation = Revocation(
        id="e1", agent_id="host-2", at=at, signed_at=at, standing=Standing.FAILED, enrolment=1, policy="p@1", findings=[]
    )
    signed = Signer.load(tmp_path / "notifier.pem").sign(revocation)
    await bus.publish_durable(subjects.revocation("host-2"), signed, message_id="e1")
    heard = tmp_path / "heard.json"
    async with asyncio.timeout(40):
        while not heard.exists() or not heard.read_text():
            await asyncio.sleep(0.01)
    assert json.loads(heard.read_text())["agent_id"] == "host-2"

    await stream.restarted(lambda: (nats_server.kill(), nats_server.start()))
    await stream.until(lambda found: hellos(found) == 2)

    agent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(agent.wait(), 40) == 0


async def test_an_agent_comes_back_with_its_keys(
    agent: asyncio.subprocess.Process, bus: Bus, stream: EvidenceStream, config: Path, nats_server: NatsServer
) -> None:
    registrar = SoftRegistrar(bus)
    await registrar.start()
    await stream.until(lambda found: hellos(found) == 1)
    agent.kill()
    await agent.wait()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "services.agent", "--config", str(config))
    again = await asyncio.create_subprocess_exec(*command, env=environment)
    await stream.until(lambda found: hellos(found) == 2)
    assert len(registrar.requests) == 1
    again.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(again.wait(), 40) == 0


async def test_an_agent_whose_tpm_was_cleared_enrols_anew(
    agent: asyncio.subprocess.Process, bus: Bus, stream: EvidenceStream, config: Path, swtpm: Swtpm
) -> None:
    registrar = SoftRegistrar(bus)
    await registrar.start()
    await stream.until(lambda found: hellos(found) == 1)
    clear = await asyncio.create_subprocess_exec("tpm2_clear", "-T", swtpm.tcti, "-c", "p")
    assert await clear.wait() == 0
    at = time.time_ns() // 1_000_000
    challenge = Challenge(agent_id="host.1", nonce=b"n", seq=1, issued_at=at, deadline=at + 5_000, banks={"sha256": [0]})
    await bus.publish(subjects.challenge("host.1"), challenge)
    # It ends, so that whoever supervises it starts it again with a new AK.
    assert await asyncio.wait_for(agent.wait(), 40) == 1
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "services.agent", "--config", str(config))
    again = await asyncio.create_subprocess_exec(*command, env=environment)
    await stream.until(lambda found: hellos(found) == 2)
    again.terminate()
    assert await asyncio.wait_for(again.wait(), 40) == 0
    first, second = registrar.requests
    assert first.ak_public != second.ak_public


async def test_a_tcti_that_leads_nowhere_ends_it_with_one_line(config: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "services.agent", "--config", str(config))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATTESTREAM_AGENT_TCTI": "nonsense:x"}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    _, text = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "Traceback" not in text.decode()
    assert "the TPM at nonsense:x can not load the AK" in text.decode().splitlines()[-1]
