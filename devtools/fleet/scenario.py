"""What a fleet is made of and what happens to it when, read from a TOML file (docs/fleet.md)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from attestream.errors import ConfigError

Share = Annotated[float, Meta(gt=0, le=1)]
Span = Annotated[float, Meta(ge=0, le=86_400)]

Do = Literal[
    "run",
    "intrude",
    "hide",
    "reboot",
    "readmit",
    "publish",
    "upgrade",
    "silence",
    "slow",
    "lossy",
    "forge",
    "replay",
    "garbage",
    "reconnect",
    "renew",
]


class Section(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Image(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[image]``: what all machines run."""

    files: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    """Programs of the image: as many paths has the policy."""
    at_boot: Annotated[int, Meta(ge=0, le=100_000)] = 20
    """Of which so many run when a machine boots."""
    boot_logs: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Share of the machines that have a UEFI event log, which their policy then demands."""


class Step(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[step]]``: something that happens to some of the machines."""

    at_s: Span
    """Seconds after all agents were trusted first."""
    do: Do
    share: Share | None = None
    """Which part of the fleet, drawn at random; not together with ``count``."""
    count: Annotated[int, Meta(ge=1)] | None = None
    """How many machines; default: all."""
    group: str = ""
    """Name for the machines that were drawn; a later step with it means the same ones."""
    spread_s: Span = 0.0
    """Seconds over which it happens to one after another; 0: to all at once."""
    times: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """``run``: how many programs."""
    for_s: Span = 0.0
    """``silence``, ``slow``, ``lossy``: for how long; 0: to the end."""
    delay_s: Span = 0.0
    """``slow``: how long an answer takes."""
    loss: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """``lossy``: how many of the answers are lost."""


class Scenario(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A whole file."""

    doc: str
    agents: Annotated[int, Meta(ge=1, le=200_000)] = 100
    duration_s: Span = 10.0
    """Seconds until what has come of it is compared."""
    interval_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 1000
    lease_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 10_000
    timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1000
    """After which a challenge counts as missed."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    connections: Literal["shared", "own"] = "shared"
    """One connection for all agents; or each has its own, with the identity that its attestation has earned."""
    keys: dict[str, Annotated[int, Meta(ge=1)]] = msgspec.field(default_factory=lambda: {"p256": 3, "rsa2048": 1})
    """Kinds of attestation key, and in what proportion."""
    image: Image = Image()
    step: list[Step] = []


SHIPPED: Final = Path(__file__).parent / "scenarios"
"""Directory of the scenarios of this repository."""


def load(name: str) -> Scenario:
    """Return the scenario in the file ``name``, or of that name among :data:`SHIPPED`.

    :raises ConfigError: it can not be read, or says what can not be.
    """
    path = Path(name)
    if not path.suffix:
        path = SHIPPED / f"{name}.toml"
    try:
        scenario = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Scenario)
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
        raise ConfigError(f"{path} can not be read: {error.strerror}", remedy=f"Shipped are: {known}.") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for step in scenario.step:
        if step.share is not None and step.count is not None:
            raise ConfigError(f"{path}: {step.do!r} has both a share and a count")
        if step.do in ("reconnect", "renew") and scenario.connections != "own":
            raise ConfigError(f"{path}: only agents with connections of their own can {step.do}")
    return scenario
