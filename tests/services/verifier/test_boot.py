"""The boot log: asked for once in each boot, judged, and asked for again when the machine has rebooted."""

import pytest

from attestream.uefi.policy.create import create_reference_state
from devtools.grub_boot import grub_boot
from devtools.pool import digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
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
