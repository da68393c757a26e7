"""The steps about verifiers that die: another one takes over, and without any the results lapse by themselves."""

from __future__ import annotations

from typing import Final

from attestream.bus.stored import last_messages
from attestream.client import DeliveredResult, Fleet
from devtools.demo.scene import Scene
from devtools.demo.stage import WORKERS
from devtools.demo.subscriber import Heard, now_ms
from devtools.demo.waiting import NotObservedError
from schemas import subjects
from schemas.events import EventKind, Standing
from schemas.topology import RESULTS

_EXPIRED: Final = "MaxAge"
"""The server's reason in the delete marker of a message whose life has ended."""


async def kill_one(scene: Scene) -> None:
    """Kill the worker that has most agents, and wait until the other has attested every agent.

    :raises NotObservedError: when it has not.
    """
    owned = {name: status.worker for name, status in (await scene.owners()).items()}
    victim = max(WORKERS, key=lambda worker: list(owned.values()).count(worker))
    (survivor,) = (worker for worker in WORKERS if worker != victim)
    orphans = sorted(name for name, worker in owned.items() if worker == victim)
    pid = scene.stage.services[victim].pid
    began = now_ms()
    scene.stage.services[victim].kill()
    scene.narrator.doing(f"SIGKILL to {victim} (process {pid}), which attested {' and '.join(orphans)}; it stays dead")

    first: dict[str, int] = {}

    async def look() -> dict[str, int] | None:
        for name, status in (await scene.live()).items():
            if status.worker == survivor and status.last_at > began and status.standing is Standing.TRUSTED:
                first.setdefault(name, status.last_at)
        return first if first.keys() == owned.keys() else None

    await scene.until(f"an attestation of every agent by {survivor}", look, every_s=0.02)
    for name, at in first.items():
        how = "taken over and attested" if name in orphans else "attested as before"
        scene.saw(f"{name}: {how} by {survivor}", at - began, short=f"{name} attested")
    lapsed = [name for name in owned if scene.subscriber.event(EventKind.LAPSED, name, since=began)]
    scene.narrator.seen(
        f"{' and '.join(lapsed)} read as unknown for a moment: the take-over was slower than the lease"
        if lapsed
        else "no result lapsed meanwhile: nobody who relies on the agents has noticed"
    )


async def kill_all(scene: Scene) -> None:
    """Kill what is left of the verifiers, and wait until the broker has announced the end of every result.

    :raises NotObservedError: when it has not, or somebody still says that an agent is trusted.
    """
    last = {name: held for name in scene.stage.machines if (held := scene.subscriber.result(name)) is not None}
    began = now_ms()
    killed = [worker for worker in WORKERS if scene.stage.services[worker].pid]
    for worker in killed:
        scene.stage.services[worker].kill()
    scene.narrator.doing(f"SIGKILL to {' and '.join(killed)}: no verifier is left; agents, registrar and notifier live on")

    async def look() -> dict[str, Heard[DeliveredResult]] | None:
        for name in scene.stage.machines:
            newest = scene.subscriber.result(name, since=began)
            if newest is not None and newest.item.result is not None:
                last[name] = newest  # was under way when the worker died
        ends = {
            name: newest
            for name in scene.stage.machines
            if (newest := scene.subscriber.result(name, since=began)) is not None and newest.item.result is None
        }
        return ends if ends.keys() == scene.stage.machines.keys() else None

    ends = await scene.until("the end of every result, announced by the broker", look, every_s=0.01)
    names = [subjects.result(name) for name in scene.stage.machines]
    reasons = {stored.marker for stored in await last_messages(scene.client.bus, RESULTS.name, names)}
    if reasons != {_EXPIRED}:
        raise NotObservedError(f"the results did not end by their age alone, but by {reasons}")
    for name, end in sorted(ends.items(), key=lambda each: each[1].at):
        result = last[name].item.result
        late = f", {end.at - result.expires_at:.0f} ms after its lease ended" if result is not None else ""
        scene.saw(f"{name}: the broker removed its result and said so{late}", end.at - began, short=f"{name} unknown")

    async def ask() -> Fleet | None:
        fleet = await scene.client.fleet(timeout_s=1.0)
        return fleet if not fleet.verifier else None

    fleet = await scene.until("the silence of all verifiers", ask)
    told = {agent.agent_id: agent.standing for agent in fleet.agents}
    if told != dict.fromkeys(scene.stage.machines, Standing.UNKNOWN):
        raise NotObservedError(f"without verifiers the agents are not all unknown: {told}")
    scene.narrator.seen("whoever asks now is told: web, db and build are unknown")
