"""What an adapter answers."""

from __future__ import annotations

from dataclasses import dataclass, field


class CannotRunError(Exception):
    """The case asks for something that its adapter does not know. Never a verdict: it fails the run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the core made of one case."""

    verdict: str
    """``pass`` or ``fail``."""
    event_ids: list[str] | None = None
    """The incumbent's event ids in order; None when the category has none."""
    values: dict[str, object] = field(default_factory=dict)
    """Every other output that the category's cases may expect, by its name there."""
