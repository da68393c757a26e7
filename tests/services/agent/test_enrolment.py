"""Enrolment over a real bus and TPM, against a registrar that checks the proof and can be made to misbehave."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from devtools.soft_registrar import SoftRegistrar
from schemas import subjects
from services.agent import identity as identities
from services.agent.enrolment import enrol
from services.agent.tpm_device import TpmDevice


@pytest.fixture
async def registrar(bus: Bus) -> SoftRegistrar:
    made = SoftRegistrar(bus, enrolment=5)
    await made.start()
    return made


@pytest.fixture
def executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


@pytest.mark.parametrize(("ek", "ak"), [("rsa2048", "rsa2048"), ("p256", "p256")])
async def test_an_agent_proves_itself_once(
    bus: Bus, registrar: SoftRegistrar, device: TpmDevice, tmp_path: Path, executor: ThreadPoolExecutor, ek: str, ak: str
) -> None:
    tpm = TpmDevice(device._transport._tcti, tmp_path / "data", ek=ek, ak=ak)
    identity = identities.load(tmp_path / "data", "host-1")
    enrolled, _ = await enrol(bus, tpm, identity, executor)
    assert registrar.proven == [True]
    assert (enrolled.enrolment, enrolled.ak_public) == (5, tpm.attestation_key())
    request = registrar.requests[0]
    assert request.transport_key == identity.transport_public
    assert len(request.ek_certificates) == (1 if ek == "rsa2048" else 0)
    identities.store(tmp_path / "data", enrolled)
    again = identities.load(tmp_path / "data", "")
    assert await enrol(bus, tpm, again, executor) == (enrolled, "")
    assert len(registrar.requests) == 1


async def test_another_ak_is_enrolled_anew(
    bus: Bus, registrar: SoftRegistrar, device: TpmDevice, tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    enrolled, _ = await enrol(bus, device, identities.load(tmp_path / "agent", "host-1"), executor)
    (tmp_path / "agent" / "ak.key").unlink()
    other = TpmDevice(device._transport._tcti, tmp_path / "agent", ek="p256", ak="p256")
    assert (await enrol(bus, other, enrolled, executor))[0].ak_public != enrolled.ak_public
    assert registrar.proven == [True, True]


async def test_it_tries_until_it_is_granted(
    bus: Bus, device: TpmDevice, tmp_path: Path, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    identity = identities.load(tmp_path / "agent", "host-1")
    task = asyncio.create_task(enrol(bus, device, identity, executor))
    async with asyncio.timeout(60):
        while "the registrar does not answer" not in caplog.text:
            await asyncio.sleep(0.01)
        registrar = SoftRegistrar(bus, enrolment=5)
        registrar.refusals, registrar.wrong_names = 1, 1
        await registrar.start()
        assert (await task)[0].enrolment == 5
    assert "not today" in caplog.text
    assert "another enrolment" in caplog.text
    assert registrar.proven == [True, True]


async def test_an_answer_that_is_none_is_not_believed(
    bus: Bus, device: TpmDevice, tmp_path: Path, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def garbage(message: Msg) -> None:
        await bus.nc.publish(message.reply, b"\xc1")

    await bus.subscribe(subjects.REGISTRAR_ENROL, garbage)
    identity = identities.load(tmp_path / "agent", "host-1")
    task = asyncio.create_task(enrol(bus, device, identity, executor))
    async with asyncio.timeout(40):
        while "can not be read" not in caplog.text:
            await asyncio.sleep(0.01)
    task.cancel()
