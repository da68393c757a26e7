"""The first steps: everything starts, the machines prove their TPMs, and a policy makes them trusted."""

from __future__ import annotations

import asyncio
import json

from attestream.appraisal.policy import compile_policy, policy_from_log
from attestream.client import DeliveredResult, new_command_id
from attestream.tpm.public import parse_public
from devtools.demo.machine import Machine
from devtools.demo.scene import Scene
from devtools.demo.stage import INTERVAL_MS, LEASE_MS, WORKERS
from devtools.demo.subscriber import Heard, now_ms
from devtools.demo.waiting import NotObservedError
from schemas import subjects
from schemas.commands import AddAgent, Attestation, WorkerStatus
from schemas.enrolment import AgentsQuery, Identity, IdentityPage
from schemas.events import EventKind

POLICY = "demo"
_QUERY_S = 1.0
_KINDS = {"rsa2048": "rsa", "p256": "ecc"}


async def start(scene: Scene) -> None:
    """Wait until every service has answered over the bus.

    :raises NotObservedError: when one does not.
    """
    began = now_ms()
    workers = await scene.until("the answer of every service", lambda: _ready(scene), every_s=0.05)
    shares = ", ".join(f"{worker.worker} {len(worker.partitions)}" for worker in workers)
    scene.saw("registrar, notifier and two verifier workers answer over the bus", now_ms() - began, short="services ready")
    scene.narrator.seen(f"the workers have shared the {subjects.PARTITIONS} partitions of agents: {shares}")


async def enrol(scene: Scene) -> None:
    """Boot the machines and wait until the registrar has proven each.

    :raises NotObservedError: when it has not, or has recorded other keys than the machines have.
    """
    began = now_ms()
    first, *others = scene.machines
    await asyncio.gather(first.boot(also=[scene.known]), *(machine.boot() for machine in others))
    scene.narrator.doing("web, db and build boot: each has its own software TPM, IMA log and agent process")
    identities = await scene.until("the enrolment of every agent", lambda: _enrolled(scene), every_s=0.02)
    for machine in scene.machines:
        identity = identities[machine.name]
        public = parse_public(identity.ak_public)
        if identity.ek_trust != "certificate" or public.kind != _KINDS[machine.ak]:
            raise NotObservedError(f"{machine.name} was enrolled with other keys than it has")
        scene.saw(
            f"{machine.name}: its EK is certified by the TPM's maker, and its AK ({machine.ak}) lives in the same TPM, "
            "for only that one could open the challenge",
            identity.at - began,
            short=f"{machine.name} enrolled",
        )


async def trust(scene: Scene) -> None:
    """Learn a policy, put the agents under attestation, and wait for their first results.

    :raises NotObservedError: when one does not become trusted.
    """
    web = scene.machines[0]
    document = json.dumps(policy_from_log(web.ima_log, description="learnt from web"), indent=2).encode()
    (scene.stage.directory / "policy.json").write_bytes(document)
    reference = await scene.client.push_policy(POLICY, document)
    entries = compile_policy(document).entries
    scene.narrator.seen(
        f"policy {reference} is learnt from web's IMA log: {entries} files that a machine in good order may run"
    )
    began = now_ms()
    await asyncio.gather(*(_add(scene, machine, reference) for machine in scene.machines))
    for machine in scene.machines:
        heard = await until_trusted(scene, machine, since=began)
        scene.saw(
            f"{machine.name}: quote, PCR 10 and IMA log agree with the policy: trusted",
            heard.at - began,
            short=f"{machine.name} trusted",
        )
    scene.narrator.doing(
        f"from now on each agent is challenged every {INTERVAL_MS} ms; a result lives {LEASE_MS} ms, no longer"
    )


async def until_trusted(scene: Scene, machine: Machine, *, since: float) -> Heard[DeliveredResult]:
    """Wait for a result of ``machine`` that came after ``since`` and says ``trusted``.

    :raises NotObservedError: when none comes, or a failure comes instead.
    """

    async def look() -> Heard[DeliveredResult] | None:
        if (failed := scene.subscriber.event(EventKind.FAILED, machine.name, since=since)) is not None:
            found = "; ".join(f"{item.code} {item.culprit}" for item in failed.item.event.findings)
            raise NotObservedError(f"{machine.name} has failed instead of being trusted: {found}")
        return scene.subscriber.trusted(machine.name, since=since)

    return await scene.until(f"a result that says {machine.name} is trusted", look)


async def _ready(scene: Scene) -> list[WorkerStatus] | None:
    page = await scene.client.bus.request(subjects.QUERY_REGISTRAR_AGENTS, AgentsQuery(), IdentityPage, timeout_s=_QUERY_S)
    workers = await scene.client.workers()
    shared = sum(len(worker.partitions) for worker in workers)
    if page.identities or len(workers) < len(WORKERS) or shared != subjects.PARTITIONS:
        return None
    if any(not worker.partitions for worker in workers) or not await scene.client.published_keys():
        return None
    await scene.live()
    return workers


async def _enrolled(scene: Scene) -> dict[str, Identity] | None:
    page = await scene.client.bus.request(subjects.QUERY_REGISTRAR_AGENTS, AgentsQuery(), IdentityPage, timeout_s=_QUERY_S)
    found = {identity.agent_id: identity for identity in page.identities}
    recorded = all(scene.subscriber.event(EventKind.ENROLLED, name) for name in found)
    return found if recorded and found.keys() == scene.stage.machines.keys() else None


async def _add(scene: Scene, machine: Machine, policy: str) -> None:
    attestation = Attestation(policy=policy, interval_ms=INTERVAL_MS, lease_ms=LEASE_MS)
    await scene.client.command(AddAgent(command_id=new_command_id(), agent_id=machine.name, attestation=attestation))
