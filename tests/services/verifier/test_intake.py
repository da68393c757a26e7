"""What a partition is given, when deliveries or acknowledgements are lost: it never waits for ``ACK_WAIT_S``."""

from __future__ import annotations

import asyncio

import pytest

from attestream.bus import jetstream
from attestream.bus.connection import BusSettings, connect
from attestream.bus.consume import DEFERRED
from attestream.bus.partitions import partition
from devtools.bare_cluster import bare_cluster, replicated
from devtools.pool import eventually
from schemas import subjects
from services.verifier import intake
from services.verifier.intake import Intake

AGENT = "a"
PARTITION = partition(AGENT)


class Owner:
    """The owner of one partition, which notes what it is given; settling the first of each is lost."""

    def __init__(self, bus) -> None:
        self.bus = bus
        self.evidence: list[bytes] = []
        self.commands: list[bytes] = []
        self.owned = True
        self.intake = Intake(
            bus,
            PARTITION,
            evidence=self._evidence,
            command=self._command,
            owned=lambda: self.owned,
            given_back=list,
        )

    async def _evidence(self, delivery):
        return self._lost_at_first(self.evidence, delivery)

    async def _command(self, delivery):
        return self._lost_at_first(self.commands, delivery)

    @staticmethod
    def _lost_at_first(seen, delivery):
        seen.append(delivery.data)
        return DEFERRED if len(seen) == 1 else None

    async def settled(self) -> bool:
        """Return whether the server waits for nothing."""
        for consumer in (self.intake.evidence, self.intake.commands):
            info = await jetstream.call(self.bus, f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
            if info["num_ack_pending"] or info["num_pending"]:
                return False
        return True


@pytest.fixture(autouse=True)
def no_other_way(monkeypatch):
    """Nothing comes again within the test by itself."""
    monkeypatch.setattr(intake, "ACK_WAIT_S", 600.0)


async def send(bus, text: str) -> None:
    for subject in (subjects.evidence(AGENT), subjects.command(AGENT)):
        await bus.publish_durable(subject, text.encode(), message_id=f"{subject}.{text}", timeout_s=30)


async def test_what_is_lost_with_a_leader_comes_again_when_there_is_another(tmp_path):
    servers = bare_cluster(tmp_path)
    for server in servers:
        server.start()
    bus = await connect(BusSettings(urls=[server.url for server in servers]))
    try:
        await replicated(bus)
        owner = Owner(bus)
        await owner.intake.start()
        await send(bus, "one")
        await eventually(lambda: owner.evidence and owner.commands, 30)
        # As if it had died under the acknowledgements; a successor is there sooner than after a death.
        for consumer in (owner.intake.evidence, owner.intake.commands):
            await jetstream.call(bus, f"CONSUMER.LEADER.STEPDOWN.{consumer.stream}.{consumer.name}", timeout_s=30)
        await eventually(lambda: owner.evidence == owner.commands == [b"one", b"one"], 60)
        await send(bus, "two")
        await eventually(lambda: owner.evidence == owner.commands == [b"one", b"one", b"two"], 60)
        await eventually(owner.settled, 60)
        await owner.intake.stop()
    finally:
        await bus.close()
        for server in servers:
            server.kill()


async def test_a_delivery_that_is_missing_between_two_others_comes_again_before_the_second(bus):
    owner = Owner(bus)
    owner.evidence.append(b"")
    await owner.intake.start()
    await send(bus, "one")
    await eventually(lambda: owner.evidence == [b"", b"one"])
    take = owner.intake.evidence._subscription._cb

    async def lose(message) -> None:
        owner.intake.evidence._subscription._cb = take

    owner.intake.evidence._subscription._cb = lose
    await send(bus, "two")
    await send(bus, "three")
    await eventually(lambda: owner.evidence == [b"", b"one", b"two", b"three"])
    await owner.intake.stop()


async def test_who_may_have_lost_the_partition_leaves_its_consumers_alone(bus):
    owner, successor = Owner(bus), Owner(bus)
    await owner.intake.start()
    owner.owned = False
    owner.intake.doubt()
    await successor.intake.start()
    await send(bus, "one")
    await eventually(lambda: successor.evidence and successor.commands)
    created = await jetstream.call(bus, f"CONSUMER.INFO.EVIDENCE.{successor.intake.evidence.name}")
    owner.intake.doubt()
    await asyncio.sleep(3 * intake.AGAIN_S)
    after = await jetstream.call(bus, f"CONSUMER.INFO.EVIDENCE.{successor.intake.evidence.name}")
    assert after["created"] == created["created"]
    await owner.intake.stop()
    await successor.intake.stop()
