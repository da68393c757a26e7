"""Kept evidence: what a pool of workers on a real bus writes, and what can be made of it."""

import asyncio
import json
import uuid

import msgspec
import pytest

from attestream.appraisal.layers import layer_names
from attestream.appraisal.policy import compile_policy
from attestream.archive import reading
from attestream.archive.logs import Boot, chain, read_log, segments
from attestream.archive.replaying import ask, evidence_of, replay
from attestream.bus.jetstream import call
from attestream.bus.stored import messages
from attestream.client import policies
from attestream.errors import MalformedError, UnknownEvidenceError
from attestream.ima.log import split_binary
from attestream.tpm.structures import parse_quote
from devtools.pool import allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.archive import LogSegment
from schemas.attestation import PART_BYTES
from schemas.commands import Attestation, UpdateAgent
from schemas.events import EventKind, Standing
from services.agent.evidence import cut
from services.verifier import archive, custody

ALL = {"keep": "all", "days": 7}
LONG = "/tmp/" + "x" * 3900


async def kept_of(bus, agent_id, verdict=""):
    found = [kept async for kept in reading.entries(bus, agent_id)]
    return [kept for kept in found if not verdict or kept.entry.verdict == verdict]


async def compiled(bus, reference):
    _, document = await policies.find(bus, reference)
    return compile_policy(document, {name: (await policies.find(bus, name))[1] for name in layer_names(document)})


async def replayed(bus, kept):
    appraisal = await reading.appraisal(bus, kept)
    return replay(appraisal, await compiled(bus, appraisal.policy))


async def attested(tenant, agent_id="agent-0", interval_ms=60_000, **policy):
    assert (await tenant.push("base", allowing("boot_aggregate", "/usr/bin/a", **policy))).ok
    assert (await tenant.add(agent_id, interval_ms=interval_ms, lease_ms=120_000)).ok
    await tenant.becomes(agent_id, Standing.TRUSTED)


async def waits(bus, agent_id, count, verdict=""):
    async def there():
        found = await kept_of(bus, agent_id, verdict)
        return found if len(found) >= count else None

    return await eventually(there)


async def test_trusted_warned_and_failed_evidence_is_judged_the_same_again(pool, tenant, fleet, bus):
    worker = await pool.start("one")
    relaxed = [{"code": "runtime[.]path-unknown", "severity": "warning"}]
    await attested(tenant, archive={"keep": "changes", "days": 7}, severities=relaxed)
    agent = fleet.agents["agent-0"]
    agent.run("/usr/bin/unknown", digest_of("u"))
    await fleet.notice("agent-0")
    await eventually(lambda: worker.attester("agent-0").findings)
    agent.run("/usr/bin/a", digest_of("changed"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    found = await waits(bus, "agent-0", 3)
    assert [kept.entry.verdict for kept in found] == ["pass", "pass", "fail"]
    assert [kept.entry.standing for kept in found] == [Standing.TRUSTED, Standing.TRUSTED, Standing.FAILED]
    assert found[1].entry.codes == ["runtime.path-unknown"]
    assert "runtime.digest-unknown" in found[2].entry.codes
    for kept in found:
        again = await replayed(bus, kept)
        assert again.identical
        assert again.verdict == kept.entry.verdict
    events = {event.event_number for event in await tenant.events("agent-0")}
    assert {kept.entry.event_number for kept in found} <= events


async def test_nothing_is_kept_unless_the_policy_wants_it(pool, tenant, fleet, bus):
    await pool.start("one")
    await attested(tenant)
    fleet.agents["agent-0"].run("/usr/bin/a", digest_of("changed"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    await pool.stop("one")
    assert [stored async for stored in messages(bus, topology.ARCHIVE.name)] == []
    assert [stored async for stored in messages(bus, topology.ARCHIVE_OBJECTS.name)] == []


async def test_only_failures_are_kept_where_only_they_are_wanted(pool, tenant, fleet, bus):
    await pool.start("one")
    await attested(tenant, archive={"keep": "failures", "logs": False})
    fleet.agents["agent-0"].run("/usr/bin/a", digest_of("changed"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    await pool.stop("one")
    assert [kept.entry.verdict for kept in await kept_of(bus, "agent-0")] == ["fail"]
    assert [stored async for stored in messages(bus, topology.ARCHIVE.name, subjects.archived_log("agent-0"))] == []


async def test_bare_answers_are_kept_only_with_all(pool, tenant, fleet, bus):
    worker = await pool.start("one")
    await attested(tenant, interval_ms=200, archive=ALL)
    await eventually(lambda: worker.attester("agent-0").attestations >= 4)
    found = await waits(bus, "agent-0", 4)
    bare = await reading.appraisal(bus, found[-1])
    assert not evidence_of(bare).pcr_values
    assert (await replayed(bus, found[-1])).identical


async def test_everything_kept_ends_when_the_policy_says(pool, tenant, fleet, bus):
    await pool.start("one")
    await attested(tenant, archive={"keep": "changes", "days": 3})
    await waits(bus, "agent-0", 1)
    await pool.stop("one")
    for stream in (topology.ARCHIVE, topology.ARCHIVE_OBJECTS):
        lives = [stored.headers.get(subjects.HEADER_TTL) async for stored in messages(bus, stream.name)]
        assert lives
        # Pieces of an object outlive its description by ten minutes.
        assert set(lives) <= {"259200", "259800"}, lives


async def test_another_policy_can_be_asked(pool, tenant, fleet, bus):
    await pool.start("one")
    await attested(tenant, archive={"keep": "changes"})
    fleet.agents["agent-0"].run("/usr/bin/a", digest_of("changed"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    (failed,) = await waits(bus, "agent-0", 1, "fail")
    kept = await reading.appraisal(bus, failed)
    evidence = evidence_of(kept)
    lenient = allowing("boot_aggregate")
    lenient["runtime"]["digests"]["/usr/bin/a"] = [f"sha256:{digest_of('changed').hex()}"]
    other = compile_policy(json.dumps(lenient).encode())
    with pytest.raises(MalformedError, match="digest"):
        replay(kept, other)
    assert ask(kept, other).verdict == "again"
    boot = Boot(kept.enrolment, *clock_of(evidence))
    log = await read_log(bus, "agent-0", boot, evidence.ima.ima_first)
    assert ask(kept, other, log).verdict == "pass"
    assert ask(kept, await compiled(bus, kept.policy), log).verdict == "fail"


def clock_of(evidence):
    clock = parse_quote(evidence.quote).clock
    return clock.reset_count, clock.restart_count


async def test_what_waits_is_bounded_and_attestation_goes_on(pool, tenant, fleet, bus, monkeypatch, caplog):
    worker = await pool.start("one")
    blocked = asyncio.Event()
    write = worker.services.desk.archive._keep

    async def held_up(waiting):
        await blocked.wait()
        await write(waiting)

    monkeypatch.setattr(archive, "MAX_WAITING", 2)
    monkeypatch.setattr(worker.services.desk.archive, "_keep", held_up)
    await attested(tenant, interval_ms=200, archive=ALL)
    await eventually(lambda: worker.services.desk.archive.dropped["overflow"] >= 3)
    assert await tenant.standing("agent-0") is Standing.TRUSTED
    assert sum("not kept (overflow)" in record.message for record in caplog.records) == 1
    assert await kept_of(bus, "agent-0") == []
    blocked.set()
    await waits(bus, "agent-0", 2)


async def test_one_agent_can_not_fill_the_archive(pool, tenant, fleet, bus, monkeypatch):
    worker = await pool.start("one")
    monkeypatch.setattr(archive, "AGENT_BYTES_H", 10_000)
    await attested(tenant, archive=ALL)
    agent = fleet.agents["agent-0"]
    for number in range(5):
        agent.run(f"{LONG}{number}", digest_of("x"))
    await fleet.notice("agent-0")
    await eventually(lambda: worker.services.desk.archive.dropped["allowance"] == 1)
    await tenant.becomes("agent-0", Standing.TRUSTED)


async def test_a_worker_killed_between_verdict_and_archive_leaves_the_record_whole(pool, tenant, fleet, bus, monkeypatch):
    worker = await pool.start("one")

    async def never(waiting):
        await asyncio.Event().wait()

    await attested(tenant, archive={"keep": "changes"})
    await waits(bus, "agent-0", 1)
    monkeypatch.setattr(worker.services.desk.archive, "_keep", never)
    fleet.agents["agent-0"].run("/usr/bin/a", digest_of("changed"))
    await fleet.notice("agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    await pool.cut("one")
    await pool.start("two")
    await tenant.becomes("agent-0", Standing.FAILED)
    kinds = [event.kind for event in await tenant.events("agent-0")]
    assert kinds.count(EventKind.FAILED) == 1
    assert [kept.entry.verdict for kept in await kept_of(bus, "agent-0")] == ["pass"]


class PartedFleet(SoftFleet):
    """Sends evidence as real agents do: in parts when it is large."""

    async def publish(self, evidence):
        base = f"{evidence.agent_id}:{evidence.enrolment}:{evidence.seq}"
        for index, message in enumerate(cut(evidence)):
            await self._bus.publish_durable(subjects.evidence(evidence.agent_id), message, message_id=f"{base}:{index}")


@pytest.fixture
async def parted(bus):
    fleet = PartedFleet(bus, [make_agent("a")])
    await fleet.start()
    await fleet.serve_identities()
    yield fleet
    await fleet.stop()


async def test_large_logs_are_kept_in_pieces_and_found_whole(pool, tenant, parted, bus):
    await pool.start("one")
    agent = parted.agents["a"]
    for number in range(2 * PART_BYTES // len(LONG)):
        agent.run("/tmp/" + "".join(digest_of(f"{number}.{part}").hex() for part in range(60)), digest_of("x"))
    await attested(tenant, "a", archive={"keep": "changes"})
    agent.run("/usr/bin/a", digest_of("/usr/bin/a"))
    await parted.notice("a")
    (kept,) = await waits(bus, "a", 1)
    assert kept.entry.size > 2 * PART_BYTES
    assert (await replayed(bus, kept)).identical
    appraisal = await reading.appraisal(bus, kept)
    boot = Boot(appraisal.enrolment, *clock_of(evidence_of(appraisal)))

    async def whole():
        log = await read_log(bus, "a", boot)
        return log if log is not None and log.count == len(agent.log) else None

    log = await eventually(whole)
    assert log.data == b"".join(record.binary for record in agent.log)
    first, *_ = await segments(bus, "a", boot)
    assert first.object
    assert not first.data


async def test_a_new_policy_judges_entries_that_the_kernel_has_dropped(pool, tenant, fleet, bus):
    """After another worker has taken over, which has seen none of them."""
    await pool.start("one")
    await attested(tenant, archive={"keep": "failures"})
    agent = fleet.agents["agent-0"]
    agent.run("/usr/bin/a", digest_of("/usr/bin/a"))
    await fleet.notice("agent-0")
    boot = await kept_log(bus, "agent-0", 2)
    await pool.stop("one")
    drop(agent, 2)
    worker = await pool.start("two")
    await eventually(lambda: worker.attester("agent-0"))
    assert (await tenant.push("base", allowing("boot_aggregate", "/usr/bin/a", description="again"))).ok
    await update(tenant, "agent-0")
    await tenant.becomes("agent-0", Standing.TRUSTED)
    assert worker.attester("agent-0").state.ima_entries == 2
    # One that does not know an old entry fails the agent for it.
    assert (await tenant.push("base", allowing("boot_aggregate"))).ok
    await update(tenant, "agent-0")
    await tenant.becomes("agent-0", Standing.FAILED)
    found = (await tenant.events("agent-0"))[-1].findings
    assert [(finding.code, finding.culprit) for finding in found] == [("runtime.path-unknown", "/usr/bin/a")]
    assert (await read_log(bus, "agent-0", boot)).count == 2


async def test_dropped_entries_that_were_not_kept_are_missed(pool, tenant, fleet, bus):
    worker = await pool.start("one")
    await attested(tenant)
    agent = fleet.agents["agent-0"]
    drop(agent, 1)
    assert (await tenant.push("base", allowing("boot_aggregate", description="again"))).ok
    await update(tenant, "agent-0")
    await eventually(lambda: worker.attester("agent-0").missed)
    assert await tenant.standing("agent-0") is not Standing.TRUSTED
    assert EventKind.FAILED not in {event.kind for event in await tenant.events("agent-0")}


async def test_many_pieces_become_one(pool, tenant, fleet, bus, monkeypatch):
    monkeypatch.setattr(custody, "MAX_PIECES", 3)
    worker = await pool.start("one")
    await attested(tenant, archive={"keep": "failures"})
    agent = fleet.agents["agent-0"]
    for number in range(4):
        agent.run(f"/tmp/{number}", digest_of("x"))
        await fleet.notice("agent-0")
        await eventually(lambda: worker.attester("agent-0").state.ima_entries == len(agent.log))
    boot = await kept_log(bus, "agent-0", 5)

    async def one():
        return len(chain(await segments(bus, "agent-0", boot)).pieces) < 4

    await eventually(one)
    log = await read_log(bus, "agent-0", boot)
    assert log.data == b"".join(record.binary for record in agent.log)


async def kept_log(bus, agent_id, count):
    """Wait until ``count`` entries are kept and return the boot that they are of."""

    async def there():
        async for stored in messages(bus, topology.ARCHIVE.name, subjects.archived_log(agent_id)):
            segment = msgspec.msgpack.decode(stored.data, type=LogSegment)
            boot = Boot(segment.enrolment, segment.reset_count, segment.restart_count)
            log = await read_log(bus, agent_id, boot)
            if log is not None and log.count >= count:
                return boot
        return None

    return await eventually(there)


def drop(agent, count):
    """Let the kernel of ``agent`` have the first ``count`` entries no more."""
    own = agent._delta

    def shortened(wanted):
        delta = own(max(wanted, count))
        assert len(list(split_binary(delta.data))) == delta.count
        return delta

    agent._delta = shortened


async def update(tenant, agent_id):
    attestation = Attestation(policy="base", interval_ms=60_000, lease_ms=120_000)
    command = UpdateAgent(command_id=uuid.uuid4().hex, agent_id=agent_id, attestation=attestation)
    assert (await tenant.command(agent_id, command)).ok


async def test_a_line_whose_object_was_changed_is_not_used(pool, tenant, fleet, bus):
    await pool.start("one")
    await attested(tenant, archive={"keep": "changes"})
    (kept,) = await waits(bus, "agent-0", 1)
    pieces = [s async for s in messages(bus, topology.ARCHIVE_OBJECTS.name, f"$O.{topology.ARCHIVE_BUCKET}.C.>")]
    await bus.publish_durable(pieces[0].subject, pieces[0].data[:-1] + b"x", message_id="forged")
    whole = await reading.appraisal(bus, kept)
    # Whoever can delete can put another in its place.
    await call(bus, f"STREAM.MSG.DELETE.{topology.ARCHIVE_OBJECTS.name}", {"seq": pieces[0].sequence})
    assert whole.agent_id == "agent-0"
    with pytest.raises(MalformedError, match="not what the verifier has signed"):
        await reading.appraisal(bus, kept)


async def test_a_number_without_a_line_is_unknown(bus):
    for number in (0, 1, 99):
        with pytest.raises(UnknownEvidenceError):
            await reading.find(bus, number)
