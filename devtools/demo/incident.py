"""The steps about what machines run: a known program, an unknown one and what follows from it, and the way back."""

from __future__ import annotations

from attestream.client import DeliveredEvent, VerifiedRevocation, new_command_id
from devtools.demo.machine import Machine
from devtools.demo.opening import until_trusted
from devtools.demo.scene import Scene
from devtools.demo.subscriber import Heard, now_ms
from devtools.demo.waiting import NotObservedError
from schemas.commands import AgentStatus, StartAgent
from schemas.events import EventKind, Standing

TARGET = "db"
"""The machine that things happen to."""


async def run_known(scene: Scene) -> None:
    """Run a program that the policy knows, and wait until a quote has proven the longer log.

    :raises NotObservedError: when the agent does not stay trusted.
    """
    machine = scene.stage.machines[TARGET]
    before = (await scene.owners())[TARGET].ima_entries
    began = now_ms()
    await machine.run(scene.known)

    async def look() -> AgentStatus | None:
        status = (await scene.live()).get(TARGET)
        return status if status is not None and status.ima_entries == machine.ima_entries else None

    status = await scene.until(f"the appraisal of {TARGET}'s longer log", look)
    ms = now_ms() - began
    if status.standing is not Standing.TRUSTED or status.ima_entries <= before:
        raise NotObservedError(f"{TARGET} is {status.standing} after a known program, with {status.ima_entries} entries")
    await until_trusted(scene, machine, since=0)
    scene.saw(
        f"{TARGET}: the log grew from {before} to {status.ima_entries} entries, a quote proves them all, still trusted",
        ms,
        short=f"{TARGET} still trusted",
    )


async def run_unknown(scene: Scene) -> None:
    """Run a program that no policy knows; wait for the failure, the revocation at all who rely on the agent, and its own end
    on the bus.

    :raises NotObservedError: when one of them does not come, or blames something else.
    """
    others = [machine for machine in scene.machines if machine.name != TARGET]
    began = now_ms()
    await scene.stage.machines[TARGET].run(scene.intruder)
    scene.narrator.doing(f"{TARGET} runs {scene.intruder}: one more line in its IMA log, PCR 10 of its TPM is extended")
    hooks: dict[str, float] = {}
    ended: list[float] = []

    async def look() -> tuple[Heard[DeliveredEvent], Heard[VerifiedRevocation]] | None:
        for machine in others:
            if machine.name not in hooks and _was_told(machine, scene.intruder):
                hooks[machine.name] = now_ms()
        if not ended and scene.stage.machines[TARGET].cut_off:
            ended.append(now_ms())
        status = (await scene.live()).get(TARGET)
        if status and status.standing is Standing.TRUSTED and status.ima_entries == scene.stage.machines[TARGET].ima_entries:
            raise NotObservedError(f"{TARGET} has run {scene.intruder} and is still trusted: is it on the policy's list?")
        failed = scene.subscriber.event(EventKind.FAILED, TARGET, since=began)
        revoked = scene.subscriber.revocation(TARGET, since=began)
        return (failed, revoked) if failed and revoked and ended and len(hooks) == len(others) else None

    failed, revoked = await scene.until(
        f"the failure of {TARGET} and its revocation at all who rely on it", look, every_s=0.002
    )
    _tell(scene, began, failed, revoked)
    for name, at in hooks.items():
        scene.saw(f"{name}: its agent verified the revocation and ran its hook", at - began, short=f"{name}'s hook")
    scene.saw(
        f"{TARGET}: its identity on the bus is void, the server has closed its connection",
        ended[0] - began,
        short=f"{TARGET} cut off",
    )


def _tell(scene: Scene, began: float, failed: Heard[DeliveredEvent], revoked: Heard[VerifiedRevocation]) -> None:
    findings = failed.item.event.findings
    culprits = {finding.culprit for finding in (*findings, *revoked.item.revocation.findings)}
    if culprits != {scene.intruder}:
        raise NotObservedError(f"the failure of {TARGET} blames {', '.join(sorted(culprits)) or 'nobody'}")
    scene.saw(f"{TARGET} failed: {findings[0].code}, culprit {findings[0].culprit}", failed.at - began, short="failure")
    scene.saw(
        f"an outside subscriber has the revocation, signature by key {revoked.item.key_id} verified",
        revoked.at - began,
        short="outside",
    )


async def recover(scene: Scene) -> None:
    """Reboot the machine, give its agent the next chance, and wait until it is trusted again.

    :raises NotObservedError: when it does not become trusted.
    """
    machine = scene.stage.machines[TARGET]
    began = now_ms()
    await machine.boot()
    scene.narrator.doing(f"{TARGET} reboots: its TPM's reset counter goes up, PCR 10 and the log begin anew")
    await scene.client.command(StartAgent(command_id=new_command_id(), agent_id=TARGET))
    heard = await until_trusted(scene, machine, since=began)
    status = (await scene.owners())[TARGET]
    if status.ima_entries != machine.ima_entries:
        raise NotObservedError(f"{TARGET} is trusted with {status.ima_entries} of {machine.ima_entries} entries")
    scene.saw(
        f"{TARGET}: trusted again, on a log of {status.ima_entries} entries",
        heard.at - began,
        short=f"{TARGET} trusted again",
    )


def _was_told(machine: Machine, culprit: str) -> bool:
    return any(
        told["agent_id"] == TARGET and {finding["culprit"] for finding in told["findings"]} == {culprit}
        for told in machine.heard()
    )
