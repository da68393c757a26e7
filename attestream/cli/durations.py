"""Times on the command line: ``500ms``, ``30s``, ``5m``, ``2h``, ``1d``, and moments."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

import click

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)\Z", re.ASCII)
_LONGEST_MS: Final = 366 * _UNITS_MS["d"]


def duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Convert an option's value to milliseconds."""
    try:
        return None if text is None else milliseconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Convert an option's value, a time span before now or a moment in ISO 8601, to Unix milliseconds."""
    if text is None:
        return None
    if _DURATION.match(text):
        return int(time.time() * 1000) - milliseconds(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        example = "10m nor a moment such as 2026-01-31T12:00Z"
        raise click.BadParameter(f"{text!r} is neither a time span such as {example}") from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def milliseconds(text: str) -> int:
    """Return the milliseconds in ``text``, 1 ms to 366 days.

    :raises ValueError: when it is not such a time span.
    """
    match = _DURATION.match(text)
    value = round(float(match[1]) * _UNITS_MS[match[2]]) if match else 0
    if not 1 <= value <= _LONGEST_MS:
        raise ValueError(f"{text!r} is not a time span: a number and ms, s, m, h or d, for example 30s; 366d at most")
    return value


def shown(span_ms: int) -> str:
    """Return a time span for people, in its largest whole unit."""
    for unit, size in reversed(_UNITS_MS.items()):
        if span_ms >= size and span_ms % size == 0:
            return f"{span_ms // size}{unit}"
    return f"{span_ms}ms"


def ago(at: int, now: int) -> str:
    """Return how long before ``now`` the moment ``at`` was (Unix ms both), for people."""
    span = max(0, now - at)
    for unit, size in reversed(_UNITS_MS.items()):
        if span >= size and unit != "ms":
            return f"{span // size}{unit} ago"
    return "just now"
