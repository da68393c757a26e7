"""The state machine of an agent's standing: what happens, and what it makes of it. One table; nothing is implied."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from schemas.events import EventKind, Standing


class Trigger(enum.StrEnum):
    """What can happen to a standing."""

    ADDED = "added"
    UPDATED = "updated"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"
    PASSED = "passed"
    """Evidence was appraised as good."""
    FAILED = "failed"
    """Evidence was appraised as bad."""
    AGAIN = "again"
    """Evidence was authentic but incomplete: neither good nor bad."""
    MISSED = "missed"
    """So many challenges in a row stayed unanswered that the agent counts as gone."""
    LAPSED = "lapsed"
    """The result expired before it was renewed."""


class Transition(NamedTuple):
    """An event to put on the record."""

    kind: EventKind
    before: Standing
    after: Standing


_ENROLLED, _PENDING, _TRUSTED = Standing.ENROLLED, Standing.PENDING, Standing.TRUSTED
_UNREACHABLE, _FAILED, _STOPPED = Standing.UNREACHABLE, Standing.FAILED, Standing.STOPPED

# Standing -> trigger -> event and standing after it. What is absent changes nothing and is no event.
_TABLE: Final[dict[Standing, dict[Trigger, tuple[EventKind, Standing]]]] = {
    _ENROLLED: {
        Trigger.ADDED: (EventKind.ADDED, _PENDING),
    },
    _PENDING: {
        Trigger.UPDATED: (EventKind.UPDATED, _PENDING),
        Trigger.STOPPED: (EventKind.STOPPED, _STOPPED),
        Trigger.DELETED: (EventKind.DELETED, _ENROLLED),
        Trigger.PASSED: (EventKind.TRUSTED, _TRUSTED),
        Trigger.FAILED: (EventKind.FAILED, _FAILED),
        Trigger.MISSED: (EventKind.UNREACHABLE, _UNREACHABLE),
        Trigger.LAPSED: (EventKind.LAPSED, _UNREACHABLE),
    },
    _TRUSTED: {
        Trigger.UPDATED: (EventKind.UPDATED, _PENDING),
        Trigger.STOPPED: (EventKind.STOPPED, _STOPPED),
        Trigger.DELETED: (EventKind.DELETED, _ENROLLED),
        Trigger.FAILED: (EventKind.FAILED, _FAILED),
        Trigger.MISSED: (EventKind.UNREACHABLE, _UNREACHABLE),
        Trigger.LAPSED: (EventKind.LAPSED, _UNREACHABLE),
    },
    _UNREACHABLE: {
        Trigger.UPDATED: (EventKind.UPDATED, _PENDING),
        Trigger.STOPPED: (EventKind.STOPPED, _STOPPED),
        Trigger.DELETED: (EventKind.DELETED, _ENROLLED),
        Trigger.PASSED: (EventKind.RECOVERED, _TRUSTED),
        Trigger.FAILED: (EventKind.FAILED, _FAILED),
        Trigger.LAPSED: (EventKind.LAPSED, _UNREACHABLE),
    },
    # Silence does not heal, and neither does a lapse: a failure stands until an operator or a good appraisal ends it.
    _FAILED: {
        Trigger.UPDATED: (EventKind.UPDATED, _PENDING),
        Trigger.STARTED: (EventKind.STARTED, _PENDING),
        Trigger.STOPPED: (EventKind.STOPPED, _STOPPED),
        Trigger.DELETED: (EventKind.DELETED, _ENROLLED),
        Trigger.LAPSED: (EventKind.LAPSED, _FAILED),
    },
    # An update of a paused agent changes how it will be attested, not whether it is.
    _STOPPED: {
        Trigger.UPDATED: (EventKind.UPDATED, _STOPPED),
        Trigger.STARTED: (EventKind.STARTED, _PENDING),
        Trigger.DELETED: (EventKind.DELETED, _ENROLLED),
    },
}


def step(standing: Standing, trigger: Trigger, *, recovery: str = "operator") -> Transition | None:
    """Return what ``trigger`` makes of ``standing``, or None when nothing changes and nothing is to be recorded.

    :param recovery: of the policy: ``automatic`` lets a good appraisal end a failure, ``operator`` does not.
    """
    if standing is _FAILED and trigger is Trigger.PASSED and recovery == "automatic":
        return Transition(EventKind.RECOVERED, _FAILED, _TRUSTED)
    found = _TABLE.get(standing, {}).get(trigger)
    if found is None:
        return None
    kind, after = found
    return Transition(kind, standing, after)
