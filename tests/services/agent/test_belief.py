"""Agents that are told a root key and nothing else: whom they believe is in the roster."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestream.bus.connection import Bus, BusSettings
from attestream.clock import unix_ms
from attestream.config import AgentConfig, TrustConfig
from attestream.embedded.nats import NatsServer
from attestream.errors import ConfigError
from attestream.signing import Signer
from devtools.pool import eventually
from devtools.roster_keys import RosterKeys
from devtools.soft_registrar import SoftRegistrar
from devtools.swtpm import Swtpm
from schemas import subjects
from schemas.events import Revocation, Standing
from schemas.roles import Role
from services.agent.belief import Belief
from services.agent.service import Agent

Holder = Callable[[str], Awaitable[Bus]]


class Machine:
    """An agent with the root key, and what its hook was told."""

    def __init__(self, directory: Path, url: str, tcti: str, root: Path) -> None:
        hook = directory / "hook.py"
        hook.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')")
        self._heard = directory / "heard"
        config = AgentConfig(
            id="host.1",
            tcti=tcti,
            data_dir=directory / "agent",
            ek="p256",
            ak="p256",
            ima_log=None,
            boot_log=None,
            revocation_hook=[sys.executable, str(hook), str(self._heard)],
        )
        self._config = config
        self._settings = BusSettings(urls=[url], name="agent", reconnect_spread_s=0.1)
        self._trust = TrustConfig(root_keys=[root])

    def heard(self) -> list[str]:
        if not self._heard.exists():
            return []
        *whole, _ = self._heard.read_text().split("\n")
        return [json.loads(line)["id"] for line in whole if line]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(Agent(self._config, self._settings, self._trust).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def machine(tmp_path: Path, nats_server: NatsServer, swtpm: Swtpm, keys: RosterKeys) -> Machine:
    return Machine(tmp_path, nats_server.url, swtpm.tcti, keys.root_file)


async def revoke(bus: Bus, signer: Signer, name: str) -> None:
    at = unix_ms()
    revocation = Revocation(
        id=name, agent_id="host-9", at=at, signed_at=at, standing=Standing.FAILED, enrolment=1, policy="p@1", findings=[]
    )
    await bus.publish_durable(subjects.revocation("host-9"), signer.sign(revocation), message_id=name)


async def test_the_notifiers_key_is_rotated_under_a_running_agent(
    bus: Bus, keys: RosterKeys, as_holder: Holder, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await SoftRegistrar(await as_holder("registrar")).start()
    old = keys.signers["notifier"]
    async with machine.running():
        await eventually(lambda: "agent host.1 is ready" in caplog.text, 30)
        await revoke(bus, old, "before")
        await eventually(lambda: machine.heard() == ["before"], 30)

        new = keys.rotate("notifier")
        await keys.publish(bus)
        await revoke(bus, new, "by the new key")
        await eventually(lambda: machine.heard() == ["before", "by the new key"], 30)
        await revoke(bus, old, "by the old key, in the overlap")
        await eventually(lambda: len(machine.heard()) == 3, 30)

        # A key of another role, one that nobody knows, and one that was revoked do not revoke.
        keys.revoke("notifier")
        await keys.publish(bus)
        await revoke(bus, keys.signers["verifier"], "by a verifier")
        await revoke(bus, Signer.generate(keys.directory / "stranger.pem"), "by a stranger")
        third = keys.add("another notifier", Role.NOTIFIER)
        await keys.publish(bus)
        await revoke(bus, third, "by the third key")
        await revoke(bus, new, "by the revoked key")
        await revoke(bus, third, "last")
        await eventually(lambda: "last" in machine.heard(), 30)
    assert machine.heard() == ["before", "by the new key", "by the old key, in the overlap", "by the third key", "last"]


async def test_a_forged_enrolled_is_not_believed(
    bus: Bus, keys: RosterKeys, as_holder: Holder, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever holds the bus answers in the registrar's place: without a signature, and with that of another role."""
    caplog.set_level("INFO")
    for impostor, reason in ((bus, "the message is not signed"), (await as_holder("verifier"), "this is for registrar")):
        registrar = SoftRegistrar(impostor)
        await registrar.start()
        async with machine.running():
            await eventually(lambda: "not enrolled yet" in caplog.text, 60)
        assert reason in caplog.text
        await registrar.stop()
        assert registrar.proven[0], "the agent did prove itself"
        assert "enrolled as host.1" not in caplog.text
        caplog.clear()
    await SoftRegistrar(await as_holder("registrar")).start()
    async with machine.running():
        await eventually(lambda: "enrolled as host.1" in caplog.text, 60)


async def test_an_agent_waits_for_a_roster_of_its_root_key(
    bus: Bus, keys: RosterKeys, as_holder: Holder, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stranger = RosterKeys(tmp_path / "stranger", "other")
    await stranger.publish(bus)
    registrar = SoftRegistrar(bus)
    await registrar.start()
    async with machine.running():
        await eventually(lambda: "there is nobody to believe on this bus" in caplog.text, 30)
        assert not registrar.requests, "an agent tells its keys to nobody whom it does not know"
        await keys.publish(bus)
        await eventually(lambda: bool(registrar.requests), 30)


def test_keys_that_were_given_by_hand_must_be_keys(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("nothing")
    for name in ("a.pem", "missing.pem"):
        with pytest.raises(ConfigError):
            Belief(AgentConfig(revocation_keys=[tmp_path / name]), TrustConfig())
        with pytest.raises(ConfigError):
            Belief(AgentConfig(), TrustConfig(root_keys=[tmp_path / name]))
