"""The steps of the proof; each returns when its effect was observed over the bus."""

from __future__ import annotations

import asyncio
import json
import textwrap
import time

from attestream.appraisal.policy import compile_policy, policy_from_log
from attestream.client import new_command_id
from attestream.ima.log import read_binary
from attestream.uefi.parser import parse_log
from attestream.uefi.policy.create import create_reference_state
from devtools.demo.waiting import NotObservedError
from devtools.vm.boot_disk import COMMAND_LINE
from devtools.vm.root_disk import START_AGENT, STATE
from devtools.vm.scene import Scene
from devtools.vm.stage import AGENT_ID, INTERVAL_MS, LEASE_MS
from schemas import subjects
from schemas.commands import AddAgent, Attestation, StartAgent
from schemas.enrolment import AgentsQuery, Identity, IdentityPage
from schemas.events import EventKind

IMA_LOG = "/sys/kernel/security/ima/binary_runtime_measurements"
BOOT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
NEWCOMER = "/usr/local/bin/newcomer"
"""A program that the machine has not run before."""
ALTERED_COMMAND_LINE = COMMAND_LINE.replace(" ima_policy=tcb", "")
"""What an intruder would boot: a kernel that measures no files any more."""
_POLICY = "vm"
_QUERY_S = 2.0
_TOLD = 150
"""Characters of a finding that are told."""


async def boot(scene: Scene) -> None:
    """Switch the machine on for the first time and start the agent; wait until the registrar has proven its TPM.

    :raises NotObservedError: when it does not come up, or is enrolled without its certificate.
    """
    await _switch_on(scene)
    began = _now()
    for path, content in scene.stage.agent_files.items():
        await asyncio.to_thread(scene.shell.write_file, path, content)
        await asyncio.to_thread(scene.shell.run, f"busybox chmod 600 {path}")
    await asyncio.to_thread(scene.shell.say, f"{START_AGENT} &")
    identity = await scene.until("the enrolment of the agent", lambda: enrolled(scene), every_s=0.2)
    if identity.ek_trust != "certificate":
        raise NotObservedError("the agent was enrolled without the certificate of its TPM")
    scene.saw("the agent in the machine has enrolled; its TPM's EK certificate is good", began, short="enrolled")


async def trust(scene: Scene) -> None:
    """Learn a policy from the machine's own logs, and wait until the machine is trusted under it.

    :raises NotObservedError: when it is not.
    """
    await _settle(scene)
    ima, boot_log = [await asyncio.to_thread(scene.shell.read_file, path) for path in (IMA_LOG, BOOT_LOG)]
    policy = policy_from_log(ima, excludes=[f"{STATE}/.*"], description="learnt from the machine's first boot")
    policy["boot"] = {"policy": "example", "reference_states": [create_reference_state(boot_log)]}
    policy["archive"] = {"keep": "changes", "logs": True}
    document = json.dumps(policy, indent=2).encode()
    (scene.stage.directory / "policy.json").write_bytes(document)
    reference = await scene.client.push_policy(_POLICY, document)
    files, events = compile_policy(document).entries, len(parse_log(boot_log).events)
    scene.narrator.seen(
        f"policy {reference} is learnt: {files} files of the IMA log; and from {events} events of the boot log the state of "
        "firmware, keys, shim, GRUB, kernel, initrd and command line"
    )
    began = _now()
    attestation = Attestation(policy=reference, interval_ms=INTERVAL_MS, lease_ms=LEASE_MS)
    await scene.client.command(AddAgent(command_id=new_command_id(), agent_id=AGENT_ID, attestation=attestation))
    await scene.until_trusted(since=began)
    scene.saw("quote, boot log and IMA log agree with the policy: trusted", began, short="trusted")


async def run_newcomer(scene: Scene) -> None:
    """Run a program that the policy does not know; wait for the failure and its culprit.

    :raises NotObservedError: when the machine does not fail, or something else is blamed.
    """
    scene.narrator.doing(f"the machine gets a program that it has never run, {NEWCOMER}, and runs it")
    await asyncio.to_thread(scene.shell.write_file, NEWCOMER, b"#!/bin/busybox sh\necho new here\n")
    began = _now()
    if "new here" not in await asyncio.to_thread(scene.shell.run, f"busybox chmod 755 {NEWCOMER} && {NEWCOMER}"):
        raise NotObservedError(f"{NEWCOMER} did not run")
    event = await scene.until_failed(since=began)
    culprits = {finding.culprit for finding in event.findings}
    if culprits != {NEWCOMER}:
        raise NotObservedError(f"the failure blames {', '.join(sorted(culprits)) or 'nobody'} instead of {NEWCOMER}")
    finding = event.findings[0]
    scene.saw(f"failed and revoked: {finding.code}, culprit {finding.culprit}", began, short="newcomer found")


async def boot_altered(scene: Scene) -> None:
    """Boot with another kernel command line, give the agent its next chance, and wait for the failure.

    :raises NotObservedError: when the machine does not fail, or the boot policy is not among what it is blamed for.
    """
    await _reboot(scene, ALTERED_COMMAND_LINE)
    scene.narrator.doing("ima_policy=tcb is gone from GRUB's configuration: the kernel measures no programs any more")
    log = await asyncio.to_thread(scene.shell.read_file, IMA_LOG)
    if any(entry.path.startswith(b"/usr/") for entry in read_binary(log, "sha256")):
        raise NotObservedError("the kernel has measured programs though its command line does not say so")
    began = await _start_agent(scene)
    event = await scene.until_failed(since=began)
    boot = [finding for finding in event.findings if finding.code == "boot.policy"]
    if not boot or "kernel_cmdline" not in boot[0].message:
        told = "; ".join(f"{finding.code} {finding.culprit}" for finding in event.findings)
        raise NotObservedError(f"the failure does not blame the kernel's command line, but: {told}")
    for finding in event.findings:
        blamed = f"{finding.code} {finding.culprit}".strip()
        scene.narrator.seen(f"{blamed}: {textwrap.shorten(finding.message, _TOLD)}")
    scene.saw("failed and revoked: the kernel was booted with another command line", began, short="command line found")


async def boot_right(scene: Scene) -> None:
    """Boot with the right command line, give the agent its next chance, and wait until the machine is trusted.

    :raises NotObservedError: when it is not.
    """
    await _reboot(scene, COMMAND_LINE)
    began = await _start_agent(scene)
    await scene.until_trusted(since=began)
    scene.saw("trusted again", began, short="trusted again")


async def enrolled(scene: Scene) -> Identity | None:
    """Return what the registrar has on record of the machine, once it has."""
    page = await scene.client.bus.request(subjects.QUERY_REGISTRAR_AGENTS, AgentsQuery(), IdentityPage, timeout_s=_QUERY_S)
    if scene.subscriber.event(EventKind.ENROLLED, AGENT_ID) is None:
        return None
    return next((identity for identity in page.identities if identity.agent_id == AGENT_ID), None)


async def _switch_on(scene: Scene) -> None:
    began = _now()
    scene.stage.machine.switch_on()

    async def look() -> bool | None:
        return True if await asyncio.to_thread(scene.shell.answers) else None

    await scene.until("the machine's user space", look, every_s=0.5)
    line = (await asyncio.to_thread(scene.shell.run, "busybox cat /proc/cmdline")).strip()
    scene.saw("firmware, shim, GRUB, kernel and init have done their work", began, short="booted")
    scene.narrator.seen(f"command line: {line}")


async def _reboot(scene: Scene, command_line: str) -> None:
    scene.narrator.doing("the machine is switched off and on again")
    await asyncio.to_thread(scene.stage.machine.switch_off)
    await asyncio.to_thread(scene.stage.machine.set_command_line, command_line)
    await _switch_on(scene)
    line = await asyncio.to_thread(scene.shell.run, "busybox cat /proc/cmdline")
    if not line.strip().endswith(command_line):
        raise NotObservedError(f"the machine has booted with another command line: {line.strip()}")


async def _start_agent(scene: Scene) -> float:
    """Order the agent's attestation to be resumed; return when that was."""
    began = _now()
    await scene.client.command(StartAgent(command_id=new_command_id(), agent_id=AGENT_ID))
    return began


async def _settle(scene: Scene) -> None:
    """Wait until the IMA log has not grown for three seconds: the agent has loaded what it needs."""
    lengths: list[int] = []

    async def look() -> bool | None:
        count = await asyncio.to_thread(scene.shell.run, "busybox cat /sys/kernel/security/ima/runtime_measurements_count")
        lengths.append(int(count))
        return True if lengths[-3:] == [lengths[-1]] * 3 else None

    await scene.until("the IMA log to be still", look, every_s=1.5)


def _now() -> float:
    return time.time() * 1000
