"""The order of the steps, and what is told around them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from attestream.client import connect, trusted
from attestream.errors import AttestreamError
from attestream.installation.people import CREDENTIALS, SIGNING_KEY
from devtools.demo import incident, opening, outage
from devtools.demo.narration import Narrator
from devtools.demo.scene import Scene
from devtools.demo.stage import OPERATOR, Stage
from devtools.demo.subscriber import listening
from devtools.demo.waiting import NotObservedError


class Step(NamedTuple):
    """A step: ``act`` returns when its effect was observed."""

    title: str
    why: str
    act: Callable[[Scene], Awaitable[None]]


STEPS: Final = (
    Step(
        "Start the services",
        "They share nothing but the bus: a real nats-server with JetStream. Registrar and verifiers keep SQLite databases.",
        opening.start,
    ),
    Step(
        "Enrol three machines",
        "Only a key that is proven to live in a genuine TPM can speak for a machine.",
        opening.enrol,
    ),
    Step(
        "Learn a policy and attest the machines",
        "Trust is a signed quote of the TPM whose every measured file is on the policy's list.",
        opening.trust,
    ),
    Step(
        "Run a known program",
        "Change alone is no alarm: the agent sees its log grow and is attested at once, not at the next interval.",
        incident.run_known,
    ),
    Step(
        "Run an unknown program",
        "The machine can not hide it: PCR 10 only ever goes forward. Everyone who relied on the machine is told, signed.",
        incident.run_unknown,
    ),
    Step(
        "Recover the machine",
        "A failure stands until an operator ends it: here by a reboot and the command `agents start`.",
        incident.recover,
    ),
    Step(
        "Kill one verifier",
        "Its leases run out, another worker takes over; nonces and state need nothing from the dead one.",
        outage.kill_one,
    ),
    Step(
        "Kill all verifiers",
        "Silence is never a pass: a result nobody renews is removed by the broker itself, and reads as unknown.",
        outage.kill_all,
    ),
)


class StepFailedError(Exception):
    """A step was not observed; the text names it."""


async def play(stage: Stage, narrator: Narrator, *, intruder: str, known: str, deadline_s: float) -> None:
    """Play all steps on ``stage`` and tell of them.

    :raises StepFailedError: when a step was not observed.
    """
    began = time.monotonic()
    what = "Not prepared"
    try:
        narrator.headline("Attestream: three machines with TPMs, attested over NATS JetStream")
        with narrator.waiting("three software TPMs to be manufactured"):
            await stage.prepare()
        narrator.remark(f"Everything happens in {stage.directory}; keys and three software TPMs are made.")
        await stage.start_services()
        person = stage.place.operator(OPERATOR)
        trust = trusted(stage.place.root_public, signing_key=person / SIGNING_KEY)
        async with connect(stage.server.url, trust=trust, credentials=person / CREDENTIALS, name="demo") as client:
            client.places = stage.directory / "places"
            async with listening(client) as subscriber:
                scene = Scene(stage, client, subscriber, narrator, intruder=intruder, known=known, deadline_s=deadline_s)
                rows = []
                for number, step in enumerate(STEPS, 1):
                    what = f"Step {number} ({step.title}) was not observed"
                    narrator.step(number, step.title, step.why)
                    scene.figures.clear()
                    await step.act(scene)
                    rows += _rows(number, step, scene)
    except AttestreamError as error:
        raise StepFailedError(f"{what}: {error} ({error.hint})") from error
    except NotObservedError as error:
        raise StepFailedError(f"{what}: {error}") from error
    narrator.summary(rows)
    narrator.remark(f"\nAll {len(STEPS)} steps were observed, in {time.monotonic() - began:.0f} s.")


def _rows(number: int, step: Step, scene: Scene) -> list[tuple[str, str, str]]:
    label = f"{number}. {step.title}"
    return [(label if index == 0 else "", what, f"{ms:.0f}") for index, (what, ms) in enumerate(scene.figures)]
