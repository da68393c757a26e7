"""What each publisher does when a stream takes nothing more: nothing is lost, nothing passes for good meanwhile."""

import asyncio

import pytest

from attestream.bus import jetstream
from attestream.bus.topology import ensure_topology
from attestream.config import DatabaseUrl, NotifierConfig, RegistrarConfig, VerifierConfig
from attestream.errors import BusError
from attestream.signing import Signer
from devtools.pool import Pool, Tenant, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.attestation import Challenge
from schemas.base import encode
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled
from schemas.events import Event, EventKind, Standing
from services.agent.answering import publish_news
from services.notifier.service import notifying
from services.registrar.service import serving

MIB = 1 << 20
FILLERS = {
    "EVIDENCE": "att.evidence.filler",
    "EVENTS": subjects.event("warned", "filler"),
    "REVOCATIONS": subjects.revocation("filler"),
}


async def stored(bus, stream, subject=">"):
    info = await jetstream.call(bus, f"STREAM.INFO.{stream}", {"subjects_filter": subject})
    return sum((info["state"].get("subjects") or {}).values())


async def fill(bus, stream):
    """Leave no room in ``stream``, not for a small message either."""
    await ensure_topology(bus, sizes={stream: MIB})
    number = 0
    for size in (100_000, 10_000, 1_000, 100, 0):
        while True:
            answer = await bus.replies.ask(FILLERS[stream], bytes(size), {subjects.HEADER_MESSAGE_ID: f"f{number}"}, 10)
            number += 1
            if b"error" in answer.data:
                break


async def make_room(bus, stream):
    stored_as = "att.evidence.*.filler" if stream == "EVIDENCE" else FILLERS[stream]
    # Revocations can not be deleted by anyone: only a larger stream helps.
    if stream == "REVOCATIONS":
        await ensure_topology(bus, sizes={stream: 2 * MIB})
    else:
        await jetstream.call(bus, f"STREAM.PURGE.{stream}", {"filter": stored_as})


@pytest.fixture
async def pool(nats_server, bus, tmp_path):
    settings = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)
    pool = Pool(nats_server.url, tmp_path, settings)
    yield pool
    await pool.close()


async def test_a_verifier_that_can_not_write_keeps_the_evidence_and_lets_the_result_lapse(pool, bus):
    tenant, fleet = Tenant(bus), SoftFleet(bus, [make_agent("agent-0")])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    assert (await tenant.add("agent-0", interval_ms=500, lease_ms=2000)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    await fill(bus, "EVENTS")
    fleet.agents["agent-0"].run("/usr/bin/evil", digest_of("evil"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.UNKNOWN)
    assert await stored(bus, "EVIDENCE") >= 1
    assert await stored(bus, "EVENTS", subjects.event("failed", "agent-0")) == 0
    await make_room(bus, "EVENTS")
    await tenant.becomes("agent-0", Standing.FAILED, timeout_s=60)
    assert EventKind.FAILED in [event.kind for event in await tenant.events("agent-0")]
    await fleet.stop()


async def test_a_registrar_keeps_its_events_until_there_is_room(bus, tmp_path):
    config = RegistrarConfig(database_url=DatabaseUrl(f"sqlite:///{tmp_path}/registrar.db"), accept_ek="any")
    agent = make_agent("agent-0")
    async with serving(bus, config):
        await fill(bus, "EVENTS")
        request = agent.enrol_request()
        challenge = await bus.request(subjects.REGISTRAR_ENROL, request, EnrolChallenge)
        proof = agent.proof(encode(request), encode(challenge))
        activation = ActivateRequest(agent_id="agent-0", challenge_id=challenge.challenge_id, proof=proof)
        assert (await bus.request(subjects.REGISTRAR_ACTIVATE, activation, Enrolled)).enrolment == 1
        assert await stored(bus, "EVENTS", subjects.event("enrolled", "agent-0")) == 0
        await make_room(bus, "EVENTS")

        async def told():
            return await stored(bus, "EVENTS", subjects.event("enrolled", "agent-0")) == 1

        await eventually(told, 40)


async def test_a_notifier_revokes_once_there_is_room(bus, tmp_path):
    async with notifying(bus, NotifierConfig(), Signer.generate(tmp_path / "key.pem")):
        await fill(bus, "REVOCATIONS")
        failed = Event(id="e1", kind=EventKind.FAILED, agent_id="agent-0", at=1, standing=Standing.FAILED)
        await bus.publish_durable(subjects.event("failed", "agent-0"), failed, message_id="e1")
        with pytest.raises(BusError):
            await bus.publish_durable(subjects.revocation("agent-1"), bytes(1000), message_id="x", timeout_s=1)
        assert await stored(bus, "REVOCATIONS", subjects.revocation("agent-0")) == 0
        await make_room(bus, "REVOCATIONS")

        async def revoked():
            return await stored(bus, "REVOCATIONS", subjects.revocation("agent-0")) == 1

        await eventually(revoked, 40)


async def test_an_agent_keeps_its_evidence_until_there_is_room(bus):
    agent = make_agent("agent-0")
    challenge = Challenge(
        agent_id="agent-0", nonce=b"n" * 32, seq=1, issued_at=1, deadline=2, banks={"sha256": [10]}, ima_from=0
    )
    await fill(bus, "EVIDENCE")
    telling = asyncio.create_task(publish_news(bus, agent.answer(challenge)))
    done, _ = await asyncio.wait({telling}, timeout=0.5)
    assert not done
    assert await stored(bus, "EVIDENCE", "att.evidence.*.agent-0") == 0
    await make_room(bus, "EVIDENCE")
    await telling
    assert await stored(bus, "EVIDENCE", "att.evidence.*.agent-0") == 1


def test_every_bounded_stream_whose_publisher_waits_is_covered():
    waiting = {stream.name for stream in topology.STREAMS if stream.refuses_when_full and stream.max_bytes}
    assert waiting - FILLERS.keys() == {"COMMANDS"}  # its publisher is told: the command line and the SDK
