"""The one place that decides what becomes of a message whose handler failed."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Final

import msgspec

from attestream.errors import AttestreamError, BusError, FencedError, MalformedError, StorageError
from schemas.base import SchemaError

FIRST_DELAY_S: Final = 0.25
LONGEST_DELAY_S: Final = 30.0

_WAITED_OUT: Final = (BusError, StorageError, FencedError)
"""Faults of the surroundings: no number of them makes the message bad."""
_TEXT: Final = 500


class Fate(enum.Enum):
    """What happens to the message."""

    RETRY = enum.auto()
    """It comes again after the delay."""
    DEAD = enum.auto()
    """It goes to the stream DEAD and is not delivered again."""


class Outcome(msgspec.Struct, frozen=True):
    """The decision, and the reason for the record."""

    fate: Fate
    delay_s: float
    code: str
    message: str


def decide(
    error: Exception,
    deliveries: int,
    max_deliveries: int,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Outcome:
    """Return what becomes of a message whose ``deliveries``-th delivery ended in ``error``.

    Permanent errors and messages that can not be decoded are dead at once. A bus, database or lease that fails is waited for
    however long it takes. Everything else is tried ``max_deliveries`` times. Delays double from a quarter of a second to
    30 s, with jitter.
    """
    if isinstance(error, SchemaError):
        return Outcome(Fate.DEAD, 0.0, MalformedError.code, _text(error))
    code = error.code if isinstance(error, AttestreamError) else AttestreamError.code
    waited_out = isinstance(error, _WAITED_OUT)
    permanent = isinstance(error, AttestreamError) and error.permanent
    if permanent or (not waited_out and deliveries >= max_deliveries):
        return Outcome(Fate.DEAD, 0.0, code, _text(error))
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(max(deliveries, 1) - 1, 16))
    return Outcome(Fate.RETRY, uniform(longest / 2, longest), code, _text(error))


def _text(error: Exception) -> str:
    if isinstance(error, AttestreamError | SchemaError):
        return str(error)[:_TEXT]
    return f"{type(error).__name__}: {error}"[:_TEXT]
