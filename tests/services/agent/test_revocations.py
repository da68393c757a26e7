"""Revocations over a real nats-server: verified, none missed, none acted on twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from attestream.bus.connection import Bus, BusSettings, connect
from attestream.embedded.nats import NatsServer
from attestream.signing import Signer, TrustedKeys
from schemas import subjects, topology
from schemas.base import encode
from schemas.events import Finding, Revocation, Standing
from services.agent.belief import pinned
from services.agent.revocations import MAX_IDS, Revocations

FINDING = Finding(code="runtime.unknown", layer="runtime", severity="failure", culprit="/bin/evil", message="m", remedy="r")


def revocation(number: int) -> Revocation:
    return Revocation(
        id=f"event-{number}",
        agent_id="host-9",
        at=number,
        signed_at=number,
        standing=Standing.FAILED,
        enrolment=1,
        policy="web@1",
        findings=[FINDING],
    )


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.generate(tmp_path / "notifier.pem")


class Ear:
    """An agent's revocations, noting what it acts on."""

    def __init__(self, bus: Bus, signer: Signer, data_dir: Path) -> None:
        self.heard: list[str] = []
        self.bus = bus
        self.revocations = Revocations(bus, pinned(TrustedKeys.from_pems([signer.public_pem])), data_dir, self.act)

    async def act(self, one: Revocation) -> None:
        self.heard.append(one.id)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(40):
            while len(self.heard) < count:
                await asyncio.sleep(0.01)


async def publish(bus: Bus, signer: Signer, *numbers: int) -> None:
    for number in numbers:
        signed = signer.sign(revocation(number))
        await bus.publish_durable(subjects.revocation("host-9"), signed, message_id=f"revocation-{number}")


def ids(*numbers: int) -> list[str]:
    return [f"event-{number}" for number in numbers]


async def test_old_and_new_ones_are_heard_in_order(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    await publish(bus, signer, *range(3))
    ear = Ear(bus, signer, tmp_path / "agent")
    task = asyncio.create_task(ear.revocations.run())
    await ear.until(3)
    await publish(bus, signer, *range(3, 250))
    await ear.until(250)
    task.cancel()
    assert ear.heard == ids(*range(250))
    assert (tmp_path / "agent" / "revocations.state").stat().st_mode & 0o777 == 0o600


async def test_more_than_a_batch_is_caught_up_and_a_restart_does_not_repeat(
    bus: Bus, signer: Signer, tmp_path: Path
) -> None:
    await publish(bus, signer, *range(450))
    ear = Ear(bus, signer, tmp_path / "agent")
    await ear.revocations.catch_up()
    assert ear.heard == ids(*range(450))
    await publish(bus, signer, 450)
    again = Ear(bus, signer, tmp_path / "agent")
    await again.revocations.catch_up()
    assert again.heard == ids(450)


async def test_a_heard_one_is_verified_before_anything_else(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    stranger = Signer.generate(tmp_path / "stranger.pem")
    forged = signer.sign(revocation(1))
    ear = Ear(bus, signer, tmp_path / "agent")
    task = asyncio.create_task(ear.revocations.run())
    await publish(bus, signer, 0)
    await ear.until(1)
    # Stored by someone who may publish but can not sign; unreadable; signed, but of another kind.
    await publish(bus, stranger, 1)
    subject = subjects.revocation("host-9")
    await bus.publish_durable(subject, b"\xc1", message_id="garbage")
    await bus.publish_durable(subject, encode(signer.sign(forged)), message_id="other-kind")
    await publish(bus, signer, 2)
    await ear.until(2)
    task.cancel()
    assert ear.heard == ids(0, 2)
    assert ear.revocations.refused >= 3


async def test_a_forged_sequence_hides_nothing(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    ear = Ear(bus, signer, tmp_path / "agent")
    task = asyncio.create_task(ear.revocations.run())
    await publish(bus, signer, 0)
    await ear.until(1)
    old = signer.sign(revocation(0))
    for sequence in ("2", "900", "-1", "x"):
        await bus.publish(subjects.revoked("host-9"), old, headers={subjects.HEADER_SEQUENCE: sequence})
        await bus.nc.publish(subjects.revoked("host-9"), b"junk", headers={subjects.HEADER_SEQUENCE: sequence})
    await publish(bus, signer, 1)
    await ear.until(2)
    task.cancel()
    assert ear.heard == ids(0, 1)


async def test_none_is_missed_while_the_agent_was_cut_off(
    bus: Bus, nats_server: NatsServer, signer: Signer, tmp_path: Path
) -> None:
    own = await connect(BusSettings(urls=[nats_server.url], name="agent", reconnect_spread_s=0.05))
    ear = Ear(own, signer, tmp_path / "agent")
    task = asyncio.create_task(ear.revocations.run())
    await publish(bus, signer, 0)
    await ear.until(1)
    nats_server.kill()
    nats_server.start()
    await publish(bus, signer, *range(1, 20))
    await ear.until(20)
    task.cancel()
    await own.close()
    assert sorted(ear.heard) == sorted(ids(*range(20)))


async def test_a_lost_message_is_read_when_the_next_one_shows_the_gap(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    await publish(bus, signer, 0)
    ear = Ear(bus, signer, tmp_path / "agent")
    await ear.revocations.catch_up()
    # What is stored while nobody listens is what a slow consumer loses.
    await publish(bus, signer, 1, 2)
    await bus.subscribe(subjects.REVOKED, ear.revocations._hear)
    await publish(bus, signer, 3)
    await ear.until(4)
    # The one that is at hand first, without waiting for those that it was to follow.
    assert ear.heard == ids(0, 3, 1, 2)


async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    await publish(bus, signer, *range(5))
    ear = Ear(bus, signer, tmp_path / "agent")
    await ear.revocations.catch_up()
    stream = await bus.nc.jetstream().stream_info(topology.REVOCATIONS.name)
    await bus.nc.jetstream().delete_stream(topology.REVOCATIONS.name)
    await bus.nc.jetstream().add_stream(stream.config)
    await publish(bus, signer, 5)
    await bus.subscribe(subjects.REVOKED, ear.revocations._hear)
    await publish(bus, signer, 6)
    await ear.until(7)
    assert sorted(ear.heard) == ids(*range(7))


async def test_damaged_state_costs_repeats_and_not_revocations(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    await publish(bus, signer, 0)
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "revocations.state").write_bytes(b"\xc1")
    ear = Ear(bus, signer, tmp_path / "agent")
    await ear.revocations.catch_up()
    assert ear.heard == ids(0)


async def test_what_is_remembered_is_bounded(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    ear = Ear(bus, signer, tmp_path / "agent")
    for number in range(MAX_IDS + 5):
        await ear.revocations._deal(encode(signer.sign(revocation(number))), number)
    assert len(ear.revocations._ids) == MAX_IDS


async def test_an_old_one_that_is_sent_again_brings_back_no_others(bus: Bus, signer: Signer, tmp_path: Path) -> None:
    count = MAX_IDS + 20
    await asyncio.gather(*(publish(bus, signer, number) for number in range(count)))
    ear = Ear(bus, signer, tmp_path / "agent")
    await ear.revocations.catch_up()
    assert len(ear.heard) == count
    await bus.subscribe(subjects.REVOKED, ear.revocations._hear)
    forgotten = int(ear.heard[0].removeprefix("event-"))
    await bus.publish(
        subjects.revoked("host-9"), signer.sign(revocation(forgotten)), headers={subjects.HEADER_SEQUENCE: "1"}
    )
    await publish(bus, signer, count)
    async with asyncio.timeout(40):
        while f"event-{count}" not in ear.heard:
            await asyncio.sleep(0.01)
    assert len(ear.heard) <= count + 2
