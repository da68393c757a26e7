"""The order of the steps, and what is told around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from attestream.client import connect, trusted
from attestream.errors import AttestreamError
from attestream.installation.people import CREDENTIALS, ROOT, SIGNING_KEY
from devtools.demo.narration import Narrator
from devtools.demo.play import StepFailedError
from devtools.demo.subscriber import listening
from devtools.demo.waiting import NotObservedError
from devtools.vm import steps
from devtools.vm.boot_disk import boot_disk
from devtools.vm.packages import RELEASE, fetch
from devtools.vm.recorder import first_evidence, write_vector
from devtools.vm.root_disk import root_disk
from devtools.vm.scene import Scene
from devtools.vm.stage import AGENT_ID, Stage


class Step(NamedTuple):
    """A step: ``act`` returns when its effect was observed."""

    title: str
    why: str
    act: Callable[[Scene], Awaitable[None]]


STEPS: Final = (
    Step(
        "Boot the machine and enrol its agent",
        "Debian's signed shim, GRUB and kernel start under Secure Boot; the agent uses the TPM through the kernel.",
        steps.boot,
    ),
    Step(
        "Learn a policy and attest the machine",
        "The policy allows what this boot has measured: firmware, keys, loaders, kernel, initrd, command line and files.",
        steps.trust,
    ),
    Step(
        "Run a new program",
        "The kernel measures it before it runs; nobody in the machine can take that back.",
        steps.run_newcomer,
    ),
    Step(
        "Boot with another kernel command line",
        "Secure Boot does not mind: nothing signed has changed. The TPM knows it all the same.",
        steps.boot_altered,
    ),
    Step(
        "Boot with the right one", "A failure stands until an operator ends it, and then evidence decides.", steps.boot_right
    ),
)


async def play(stage: Stage, narrator: Narrator, *, cache: Path, deadline_s: float, vectors: Path | None) -> None:
    """Build the machine, play all steps on ``stage``, tell of them, and write ``vectors`` if asked.

    :raises StepFailedError: when a step was not observed.
    """
    began = time.monotonic()
    what = "Not prepared"
    try:
        narrator.headline("Attestream: an emulated Linux machine with UEFI, Secure Boot, IMA and a TPM")
        await _prepare(stage, narrator, cache)
        person = stage.place.operator("admin")
        async with connect(
            stage.server.url,
            trust=trusted(person / ROOT, signing_key=person / SIGNING_KEY),
            credentials=person / CREDENTIALS,
            ca_file=stage.place.ca_file,
            name="vm",
        ) as client:
            client.places = stage.directory / "places"
            async with listening(client) as subscriber:
                scene = Scene(stage, client, subscriber, narrator, deadline_s)
                rows = []
                for number, step in enumerate(STEPS, 1):
                    what = f"Step {number} ({step.title}) was not observed"
                    narrator.step(number, step.title, step.why)
                    scene.figures.clear()
                    await step.act(scene)
                    rows += [
                        (f"{number}. {step.title}" if first == 0 else "", seen, f"{ms:.0f}")
                        for first, (seen, ms) in enumerate(scene.figures)
                    ]
                    if step.act is steps.trust and vectors is not None:
                        what = "The vectors were not written"
                        await _write_vectors(scene, vectors)
                await asyncio.to_thread(stage.machine.switch_off)
    except AttestreamError as error:
        raise StepFailedError(f"{what}: {error} ({error.hint})") from error
    except NotObservedError as error:
        raise StepFailedError(f"{what}: {error}") from error
    narrator.summary(rows)
    narrator.remark(f"\nAll {len(STEPS)} steps were observed, in {time.monotonic() - began:.0f} s.")


async def _prepare(stage: Stage, narrator: Narrator, cache: Path) -> None:
    began = time.monotonic()
    with narrator.waiting("Debian's packages"):
        archive = await asyncio.to_thread(fetch, cache)
    narrator.seen(f"the packages of Debian {RELEASE} are there: {archive.name}", (time.monotonic() - began) * 1000)
    began = time.monotonic()
    with narrator.waiting("the machine's disks"):
        root = await asyncio.to_thread(root_disk, archive, cache)
        boot = await asyncio.to_thread(boot_disk, archive, cache)
    narrator.seen(f"its disks are made: {root.name}, {boot.name}", (time.monotonic() - began) * 1000)
    await stage.start(boot_disk=boot, root_disk=root)
    narrator.seen("its TPM is made; bus and services have started")


async def _write_vectors(scene: Scene, directory: Path) -> None:
    identity = await steps.enrolled(scene)
    evidence = await scene.until("the kept evidence with both logs", lambda: first_evidence(scene.client.bus, AGENT_ID))
    if identity is None:
        raise NotObservedError("the registrar does not know the machine")
    release = (await asyncio.to_thread(scene.shell.run, "busybox uname -srv")).strip()
    written = write_vector(
        evidence, identity.ak_public, f"QEMU, OVMF with Secure Boot, Debian {RELEASE}, {release}", directory
    )
    scene.narrator.seen(f"vectors: {', '.join(path.name for path in written)} in {directory}")
