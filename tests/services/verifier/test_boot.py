"""The boot log: asked for once in each boot, judged, and asked for again when the machine has rebooted."""

import pytest
from sqlalchemy import text

from attestream.appraisal import freshness
from attestream.clock import unix_ms
from attestream.uefi.policy.create import create_reference_state
from devtools.grub_boot import grub_boot
from devtools.pool import digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects
from schemas.attestation import Challenge
from schemas.events import EventKind, Standing

GOOD = bytes(grub_boot())
NEXT = bytes(grub_boot(kernel=b"the next kernel"))
CHANGED = bytes(grub_boot(command_line="(hd0,gpt2)/vmlinuz root=/dev/vda2 rw init=/bin/sh"))


@pytest.fixture
async def machine(pool, tenant, bus):
    """One agent that has booted well, with its fleet."""
    agent = make_agent("agent-0")
    agent.boot(GOOD)
    asked = []
    honest = agent.answer
    agent.answer = lambda challenge: asked.append(challenge.boot_log) or honest(challenge)
    fleet = SoftFleet(bus, [agent])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    states = [create_reference_state(log) for log in (GOOD, NEXT)]
    runtime = {"digests": {"boot_aggregate": [f"sha256:{digest_of('boot_aggregate').hex()}"]}}
    document = {
        "format": "attestream-policy/1",
        "bank": "sha256",
        "boot": {"policy": "example", "reference_states": states},
        "runtime": runtime,
    }
    assert (await tenant.push("base", document)).ok
    assert (await tenant.add("agent-0", interval_ms=200)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED)
    yield agent, asked
    await fleet.stop()


def reboot(agent, log):
    agent.reboot()
    agent.boot(log)
    agent.run("boot_aggregate", digest_of("boot_aggregate"))


async def test_the_boot_log_is_asked_for_once(machine, tenant):
    _, asked = machine
    await eventually(lambda: len(asked) >= 4)
    assert asked[0] is True
    assert not any(asked[1:])


async def test_after_a_reboot_the_log_is_asked_for_and_the_next_boot_is_allowed_too(machine, tenant):
    agent, asked = machine
    reboot(agent, NEXT)
    asked.clear()
    await eventually(lambda: True in asked)
    count = len(asked)
    await eventually(lambda: len(asked) >= count + 3)
    assert asked.count(True) == 1
    assert await tenant.standing("agent-0") is Standing.TRUSTED
    assert [event.kind for event in await tenant.events("agent-0")] == [EventKind.ADDED, EventKind.TRUSTED]


async def test_a_reboot_with_another_command_line_ends_trust_with_the_reason(machine, tenant):
    agent, _ = machine
    reboot(agent, CHANGED)
    await tenant.becomes("agent-0", Standing.FAILED)
    [found] = [finding for finding in (await tenant.events("agent-0"))[-1].findings if finding.severity == "failure"]
    assert found.code == "boot.policy"
    assert "kernel_cmdlines [0] does not match" in found.message


async def test_a_log_of_the_last_boot_ends_trust(machine, tenant):
    agent, _ = machine
    reboot(agent, CHANGED)
    agent.boot_log = GOOD
    await tenant.becomes("agent-0", Standing.FAILED)
    found = [(finding.code, finding.culprit) for finding in (await tenant.events("agent-0"))[-1].findings]
    assert ("boot.pcr-mismatch", "PCR 8") in found


async def test_an_agent_that_keeps_the_log_back_ends_trust(machine, tenant):
    agent, _ = machine
    reboot(agent, CHANGED)
    agent.boot_log = b""
    await tenant.becomes("agent-0", Standing.FAILED)
    assert "boot.log-missing" in [finding.code for finding in (await tenant.events("agent-0"))[-1].findings]


async def test_a_late_answer_to_who_knew_the_boot_log_fails_nobody(machine, tenant, pool, bus):
    """A dead owner's challenges did not ask for the boot log again; its successor knows less, as its row is older."""
    agent, asked = machine
    await eventually(lambda: False in asked)
    await pool.cut("one")
    for number in range(2):
        at = unix_ms() + number
        late = Challenge(
            agent_id="agent-0",
            nonce=freshness.nonce(pool.secret, "agent-0", at, at),
            seq=at,
            issued_at=at,
            deadline=at + 600,
            banks={"sha256": list(range(16))},
            ima_from=len(agent.log),
        )
        evidence = agent.answer(late)
        assert (evidence.ima.ima_first, evidence.boot_log) == (1, b"")
        await bus.publish_durable(subjects.evidence("agent-0"), evidence, message_id=f"late{at}")
    async with pool.engine.begin() as connection:
        await connection.execute(text("UPDATE verifier_attesters SET event_number = 1, standing = 'pending'"))
        await connection.execute(text("DELETE FROM verifier_snapshots"))
    asked.clear()
    await pool.start("two")
    await eventually(lambda: True in asked)
    await eventually(lambda: asked and not asked[-1])
    await tenant.becomes("agent-0", Standing.TRUSTED)
    kinds = [event.kind for event in await tenant.events("agent-0")]
    assert EventKind.FAILED not in kinds


async def test_a_boot_log_that_was_asked_for_and_does_not_come_is_a_failure(machine, tenant):
    agent, _ = machine
    agent.reboot()
    agent.boot(NEXT)
    agent.boot_log = b""
    agent.run("boot_aggregate", digest_of("boot_aggregate"))
    await tenant.becomes("agent-0", Standing.FAILED)
    [event] = [event for event in await tenant.events("agent-0") if event.kind is EventKind.FAILED]
    assert "boot.log-missing" in {found.code for found in event.findings}
