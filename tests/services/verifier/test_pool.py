"""What a pool of workers makes of agents, commands and evidence, on real parts."""

import asyncio
import hashlib
import uuid

import pytest

from attestream.appraisal import freshness
from attestream.bus.partitions import partition
from attestream.clock import unix_ms
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from devtools.soft_tpm import SoftTpm
from schemas import subjects
from schemas.attestation import Challenge
from schemas.base import decode
from schemas.commands import Attestation, DeleteAgent, StartAgent, StopAgent, UpdateAgent
from schemas.events import EventKind, Standing

POLICY = allowing("boot_aggregate", "/usr/bin/ls", "/usr/bin/cat")
BAD = "/usr/bin/evil"


def command_id():
    return uuid.uuid4().hex


async def under_attestation(pool, tenant, fleet, **times):
    await pool.start("one")
    assert (await tenant.push("base", POLICY)).ok
    for agent_id in fleet.agents:
        outcome = await tenant.add(agent_id, **times)
        assert outcome.ok, outcome.message
    for agent_id in fleet.agents:
        await tenant.becomes(agent_id, Standing.TRUSTED)


def kinds(events):
    return [event.kind for event in events]


async def test_an_added_agent_becomes_trusted(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet)
    events = await tenant.events("agent-0")
    assert kinds(events) == [EventKind.ADDED, EventKind.TRUSTED]
    assert [event.event_number for event in events] == [1, 2]
    result = await tenant.result("agent-0")
    assert result.policy == "base@1"
    assert result.worker == "one"
    assert unix_ms() < result.expires_at <= unix_ms() + 3000


async def test_an_unknown_program_ends_trust_and_names_the_culprit(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    fleet.agents["agent-1"].run("/usr/bin/cat", digest_of("/usr/bin/cat"))
    fleet.agents["agent-1"].run(BAD, digest_of(BAD))
    await fleet.notice("agent-1")
    await tenant.becomes("agent-1", Standing.FAILED)
    failed = (await tenant.events("agent-1"))[-1]
    assert failed.kind is EventKind.FAILED
    assert [(finding.code, finding.culprit) for finding in failed.findings] == [("runtime.path-unknown", BAD)]
    assert failed.before is Standing.TRUSTED
    assert await tenant.standing("agent-0") is Standing.TRUSTED


async def test_news_that_is_allowed_keeps_trust(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    fleet.agents["agent-0"].run("/usr/bin/ls", digest_of("/usr/bin/ls"))
    await fleet.notice("agent-0")
    await eventually(lambda: fleet.news >= 4)
    await eventually(lambda: asyncio.sleep(0, _proven(pool, "agent-0") == 2))
    assert await tenant.standing("agent-0") is Standing.TRUSTED


def _proven(pool, agent_id):
    worker = next(iter(pool._workers.values()))[0]
    return worker.attester(agent_id).state.ima_entries


async def test_a_reboot_is_seen_and_the_log_replayed_from_its_start(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    agent = fleet.agents["agent-2"]
    agent.run("/usr/bin/ls", digest_of("/usr/bin/ls"))
    await fleet.notice("agent-2")
    await eventually(lambda: _proven(pool, "agent-2") == 2)
    agent.reboot()
    agent.run("boot_aggregate", digest_of("boot_aggregate"))
    await eventually(lambda: _proven(pool, "agent-2") == 1)
    await tenant.becomes("agent-2", Standing.TRUSTED)
    assert EventKind.FAILED not in kinds(await tenant.events("agent-2"))


async def test_a_silent_agent_becomes_unreachable_then_unknown_then_comes_back(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300, lease_ms=5000)
    fleet.silent.add("agent-0")
    await tenant.becomes("agent-0", Standing.UNREACHABLE)
    await tenant.becomes("agent-0", Standing.UNKNOWN)
    fleet.silent.clear()
    await tenant.becomes("agent-0", Standing.TRUSTED)
    seen = kinds(await tenant.events("agent-0"))
    assert EventKind.UNREACHABLE in seen
    assert seen[-1] is EventKind.RECOVERED


async def test_results_lapse_by_themselves_when_every_worker_is_dead(pool, tenant, fleet):
    """CVE-2022-3500, keylime#1091: a dead verifier must not leave its last good verdict standing."""
    await under_attestation(pool, tenant, fleet)
    await pool.cut("one")
    await tenant.becomes("agent-0", Standing.UNKNOWN)


async def test_another_worker_takes_over_and_no_agent_is_forgotten(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    await pool.cut("one")
    await pool.start("two")

    async def taken_over():
        results = [await tenant.result(agent_id) for agent_id in fleet.agents]
        return all(r and r.worker == "two" and r.standing is Standing.TRUSTED for r in results)

    await eventually(taken_over, 30)
    fleet.agents["agent-1"].run(BAD, digest_of(BAD))
    await fleet.notice("agent-1")
    await tenant.becomes("agent-1", Standing.FAILED)


async def test_partitions_are_shared_out_when_a_worker_joins(pool, tenant, fleet):
    one = await pool.start("one")
    await eventually(lambda: len(one.status().partitions) == 64)
    two = await pool.start("two")
    await eventually(lambda: len(one.status().partitions) == len(two.status().partitions) == 32)
    assert not set(one.status().partitions) & set(two.status().partitions)


async def test_a_failed_agent_stays_failed_until_an_operator_acts(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    agent = fleet.agents["agent-0"]
    agent.run(BAD, digest_of(BAD))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    # Its lease is renewed although it is not challenged any more.
    await asyncio.sleep(3)
    assert await tenant.standing("agent-0") is Standing.FAILED
    assert (await tenant.push("base", allowing("boot_aggregate", "/usr/bin/ls", BAD))).detail == "base@2"
    update = UpdateAgent(
        command_id=command_id(), agent_id="agent-0", attestation=Attestation(policy="base", interval_ms=300)
    )
    assert (await tenant.command("agent-0", update)).detail == "base@2"
    await tenant.becomes("agent-0", Standing.TRUSTED)
    assert kinds(await tenant.events("agent-0"))[-3:] == [EventKind.FAILED, EventKind.UPDATED, EventKind.TRUSTED]


async def test_stop_start_and_delete(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    assert (await tenant.command("agent-0", StopAgent(command_id=command_id(), agent_id="agent-0"))).ok
    assert await tenant.standing("agent-0") is Standing.STOPPED
    await tenant.becomes("agent-0", Standing.UNKNOWN)
    assert (await tenant.command("agent-0", StartAgent(command_id=command_id(), agent_id="agent-0"))).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    delete = DeleteAgent(command_id=command_id(), agent_id="agent-0")
    assert (await tenant.command("agent-0", delete)).ok
    assert await tenant.standing("agent-0") is Standing.UNKNOWN
    other = await tenant.command("agent-0", DeleteAgent(command_id=command_id(), agent_id="agent-0"))
    assert other.code == "agent-unknown"


async def test_refusals_say_why(pool, tenant, fleet):
    await pool.start("one")
    assert (await tenant.add("agent-0")).code == "policy-unknown"
    assert (await tenant.push("base", POLICY)).ok
    assert (await tenant.add("nobody")).code == "agent-unknown"
    assert (await tenant.add("agent-0", interval_ms=1)).code == "refused"
    assert (await tenant.add("agent-0")).ok
    assert (await tenant.add("agent-0")).code == "agent-exists"
    bad = await tenant.push("bad", {"format": "attestream-policy/1", "runtime": {"digests": {}, "excludes": ["("]}})
    assert bad.code == "policy-invalid"
    assert (await tenant.push("base", POLICY)).detail == "base@1"


async def test_replayed_evidence_is_refused_and_changes_nothing(pool, tenant, fleet, bus):
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    heard = await bus.nc.subscribe(subjects.challenge("agent-0"))
    fleet.agents["agent-0"].run("/usr/bin/ls", digest_of("/usr/bin/ls"))
    await fleet.notice("agent-0")
    challenge = decode((await heard.next_msg(timeout=5)).data, Challenge)
    await eventually(lambda: _proven(pool, "agent-0") == 2)
    # The same evidence once more, under a message id that the stream does not know.
    replay = fleet.agents["agent-0"].answer(challenge)
    await bus.publish_durable(subjects.evidence("agent-0"), replay, message_id="replay")

    async def refused():
        return [event for event in await tenant.events("agent-0") if event.kind is EventKind.REFUSED]

    [event] = await eventually(refused)
    assert event.findings[0].code == "freshness.replayed"
    assert await tenant.standing("agent-0") is Standing.TRUSTED


@pytest.mark.parametrize(
    ("code", "age_ms", "secret"),
    [("freshness.stale", 60_000, None), ("freshness.nonce-invalid", 0, b"x" * 32)],
)
async def test_evidence_without_a_live_nonce_is_refused(pool, tenant, fleet, bus, code, age_ms, secret):
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    issued = unix_ms() - age_ms
    seq = unix_ms() + 10
    forged = Challenge(
        agent_id="agent-0",
        nonce=freshness.nonce(secret or pool.secret, "agent-0", seq, issued),
        seq=seq,
        issued_at=issued,
        deadline=issued + 1000,
        banks={"sha256": [10]},
        ima_from=0,
    )
    evidence = fleet.agents["agent-0"].answer(forged)
    await bus.publish_durable(subjects.evidence("agent-0"), evidence, message_id="forged")

    async def refused():
        return [event for event in await tenant.events("agent-0") if event.kind is EventKind.REFUSED]

    [event] = await eventually(refused)
    assert event.findings[0].code == code
    assert await tenant.standing("agent-0") is Standing.TRUSTED


async def test_a_quote_of_another_tpm_ends_trust(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    agent = fleet.agents["agent-0"]
    agent.tpm = SoftTpm(ek="p256", ak="p256")
    await tenant.becomes("agent-0", Standing.FAILED)
    failed = (await tenant.events("agent-0"))[-1]
    assert [finding.code for finding in failed.findings] == ["quote.signature-invalid"]


async def test_a_tampered_log_ends_trust(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    agent = fleet.agents["agent-0"]
    agent.run(BAD, digest_of(BAD))
    honest = make_agent("x")
    honest.run("/usr/bin/ls", digest_of("/usr/bin/ls"))
    agent.log[-1] = honest.log[-1]
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    failed = (await tenant.events("agent-0"))[-1]
    assert [finding.code for finding in failed.findings] == ["runtime.log-mismatch"]


async def test_another_transport_key_ends_trust(pool, tenant, fleet):
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    fleet.agents["agent-0"]._transport_digest = hashlib.sha256(b"stolen").digest()
    await tenant.becomes("agent-0", Standing.FAILED)
    failed = (await tenant.events("agent-0"))[-1]
    assert "identity.transport-key" in [finding.code for finding in failed.findings]


async def test_queries_answer_for_any_agent(pool, tenant, fleet, bus):
    from schemas.commands import AgentStatus, AgentStatusPage
    from schemas.enrolment import AgentQuery, AgentsQuery

    await under_attestation(pool, tenant, fleet)
    status = await bus.request(subjects.QUERY_VERIFIER_AGENT, AgentQuery(agent_id="agent-1"), AgentStatus)
    assert status.standing is Standing.TRUSTED
    assert status.ima_entries == 1
    page = await bus.request(subjects.QUERY_VERIFIER_AGENTS, AgentsQuery(limit=2), AgentStatusPage)
    assert [agent.agent_id for agent in page.agents] == ["agent-0", "agent-1"]
    assert page.more
    rest = await bus.request(subjects.QUERY_VERIFIER_AGENTS, AgentsQuery(after="agent-1"), AgentStatusPage)
    assert [agent.agent_id for agent in rest.agents] == ["agent-2"]
    assert not rest.more


async def test_an_ex_owner_can_not_write_over_its_successor(pool, tenant, fleet):
    """A paused worker that wakes up believes that it owns its partitions: the fence refuses what it writes."""
    from attestream.errors import FencedError

    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    worker = next(iter(pool._workers.values()))[0]
    attester = worker.attester("agent-0")
    old = attester.partition.fence
    await pool.cut("one")
    two = await pool.start("two")
    await eventually(lambda: len(two.status().partitions) == 64, 30)
    index = partition("agent-0")
    assert attester.partition.index == index
    with pytest.raises(FencedError):
        await tenant.bus.publish_durable(subjects.result("agent-0"), b"x", message_id="late", guard=old.result_guard)
    with pytest.raises(FencedError):
        await tenant.bus.publish_durable(
            subjects.event("trusted", "agent-0"), b"x", message_id="late", guard=old.event_guard
        )


async def test_a_fleet_of_rsa_agents(pool, tenant, bus):
    fleet = SoftFleet(bus, [make_agent("rsa-1", ak="rsa2048")])
    await fleet.start()
    await fleet.serve_identities()
    await under_attestation(pool, tenant, fleet, interval_ms=300)
    await eventually(lambda: fleet.answered > 3)
    assert await tenant.standing("rsa-1") is Standing.TRUSTED


async def test_a_policy_of_layers_allows_what_each_of_them_allows(pool, tenant, fleet):
    await pool.start("one")
    layered = {**allowing("/usr/bin/cat"), "layers": ["image@1"]}
    early = await tenant.push("base", layered)
    assert early.code == "policy-invalid"
    assert "image@1 was not found" in early.message
    assert (await tenant.push("image", allowing("boot_aggregate", "/usr/bin/ls"))).detail == "image@1"
    assert (await tenant.push("base", layered)).detail == "base@1"
    assert (await tenant.add("agent-0", interval_ms=300)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    for path in ("/usr/bin/ls", "/usr/bin/cat"):
        fleet.agents["agent-0"].run(path, digest_of(path))
    await eventually(lambda: _proven(pool, "agent-0") == 3)
    assert await tenant.standing("agent-0") is Standing.TRUSTED
    fleet.agents["agent-0"].run(BAD, digest_of(BAD))
    await tenant.becomes("agent-0", Standing.FAILED)


async def test_a_lost_partition_is_taken_again_before_what_it_was_doing_has_ended(pool, tenant, fleet):
    """Else a bus that elects its leaders anew keeps every partition waiting for the end of what nobody waits for."""
    await under_attestation(pool, tenant, fleet, interval_ms=60_000)
    held = pool.workers[0].attester("agent-0")
    update = UpdateAgent(command_id=command_id(), agent_id="agent-0", attestation=Attestation(policy="base"))
    async with held.partition.alone(held):
        told = asyncio.create_task(tenant.command("agent-0", update))
        await eventually(lambda: held.partition.intake.commands.behind)
        held.partition.fence.broken = True
        # A handler that is not lost has ten seconds.
        await eventually(lambda: pool.workers[0].attester("agent-0") not in (None, held), 8)
    assert (await told).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
