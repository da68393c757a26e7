"""The notifier as a process of its own, killed at chosen points of its flow and started again."""

import asyncio
import os
import signal
import sys

import pytest

from attestream.bus import jetstream
from attestream.bus.topology import ensure_topology
from schemas import topology


class Process:
    """`python -m services.notifier`, which can be killed and started again."""

    def __init__(self, config_file) -> None:
        self._config = config_file
        self._process = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.notifier", "--config", str(self._config)
        )

    async def kill(self) -> None:
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            return await self._process.wait()

    async def wait(self) -> int:
        async with asyncio.timeout(40):
            return await self._process.wait()


@pytest.fixture
async def process(bus, nats_server, signer, tmp_path, make_receiver):
    receiver = make_receiver()
    config = tmp_path / "attestream.toml"
    config.write_text(
        f'[bus]\nurls = ["{nats_server.url}"]\nreconnect_spread_s = 0.1\n[trust]\nunsigned = true\n'
        f'[notifier]\nsigning_key_file = "revocation.pem"\nretry_base_s = 0.05\n'
        f'[[notifier.webhooks]]\nname = "siem"\nurl = "{receiver.url}"\ntimeout_s = 0.5\n'
    )
    process = Process(config)
    process.receiver = receiver
    await process.start()
    yield process
    await process.kill()


@pytest.fixture
def sink_known(bus):
    """Whether the server has met the sink."""

    async def known() -> bool:
        try:
            await jetstream.call(bus, f"CONSUMER.INFO.{topology.REVOCATIONS.name}.webhook-siem")
        except jetstream.ApiError:
            return False
        return True

    return known


async def test_killed_before_the_revocation_is_stored(process, bus, fail, revocations, eventually):
    """The stream is away, so that the event was delivered and its revocation can not be stored before the kill."""
    await eventually(lambda: _consumer(bus))
    await jetstream.call(bus, f"STREAM.DELETE.{topology.REVOCATIONS.name}")
    ids = [await fail(f"agent-{number}") for number in range(5)]
    await eventually(lambda: _delivered(bus))
    await process.kill()
    await ensure_topology(bus)
    await process.start()
    await eventually(lambda: _complete(revocations, ids), 30)


async def test_killed_while_the_receiver_is_down(process, fail, sink_known, revocations, eventually):
    await eventually(sink_known)
    ids = [await fail(f"agent-{number}") for number in range(10)]
    await eventually(lambda: _complete(revocations, ids))
    await process.kill()
    await process.receiver.start()
    await process.start()
    await eventually(lambda: len(process.receiver.documents) >= 10)
    assert process.receiver.ids == ids


async def test_killed_again_and_again_while_agents_fail(process, fail, sink_known, revocations, eventually):
    """Wherever the kills hit: every failure is revoked and delivered; what comes twice has the same id."""
    await eventually(sink_known)
    await process.receiver.start()
    ids = []

    async def work() -> None:
        for number in range(100):
            ids.append(await fail(f"agent-{number}"))
            await asyncio.sleep(0.02)

    working = asyncio.create_task(work())
    for goal in (3, 40, 80):
        await eventually(lambda goal=goal: len(set(process.receiver.ids)) >= goal, 30)
        await process.kill()
        await process.start()
    await asyncio.wait_for(working, 60)
    await eventually(lambda: set(process.receiver.ids) >= set(ids), 30)
    found = [one.id for one in await revocations()]
    assert sorted(found) == sorted(ids)
    assert len(process.receiver.ids) <= len(ids) + 6


async def test_stops_in_order(process, eventually, sink_known):
    await eventually(sink_known)
    assert await process.stop() == 0


async def test_missing_key_is_a_configuration_error(process, eventually, tmp_path, sink_known):
    await eventually(sink_known)
    await process.kill()
    (tmp_path / "revocation.pem").unlink()
    await process.start()
    assert await process.wait() == 2


async def _consumer(bus):
    try:
        return await jetstream.call(bus, f"CONSUMER.INFO.{topology.EVENTS.name}.notifier")
    except jetstream.ApiError:
        return None


async def _delivered(bus) -> bool:
    return (await _consumer(bus))["num_ack_pending"] > 0


async def _complete(revocations, ids) -> bool:
    return sorted(one.id for one in await revocations()) == sorted(ids)
