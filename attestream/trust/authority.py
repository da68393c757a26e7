"""Whose signature counts for what: by the subject of a message, and by the kind of a command."""

from __future__ import annotations

from typing import Final

from schemas import subjects, topology
from schemas.commands import Command, PolicyCommand
from schemas.roles import NOTIFIER_EVENTS, REGISTRAR_EVENTS, TENANTS, Role

_REGISTRAR: Final = frozenset({Role.REGISTRAR})
_VERIFIER: Final = frozenset({Role.VERIFIER})
_NOTIFIER: Final = frozenset({Role.NOTIFIER})
_NOBODY: Final[frozenset[Role]] = frozenset()
_POLICY_PREFIX: Final = f"$KV.{topology.CLUSTER.name}.policy."

_AGENT_COMMANDS: Final = frozenset({Role.ADMIN, Role.OPERATOR})
_POLICY_COMMANDS: Final = frozenset({Role.ADMIN, Role.POLICY_AUTHOR})

DELETE_IDENTITY: Final = frozenset({Role.ADMIN, Role.OPERATOR})
"""Who may remove an enrolment."""

STEER_WORKERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})
"""Who may move partitions between workers."""

CHANGE_ROSTER: Final = frozenset({Role.ADMIN})
"""Who may hand in a roster; it must bear the root key's signature besides."""


def makers(subject: str) -> frozenset[Role]:
    """Return the roles whose signature counts on ``subject``; of commands, those that may sign some kind of them."""
    match subjects.published(subject).split("."):
        case ["att", "event", kind, _]:
            if kind in NOTIFIER_EVENTS:
                return _NOTIFIER
            return _REGISTRAR if kind in REGISTRAR_EVENTS else _VERIFIER
        case ["att", "result", _] | ["att", "archive", _, _]:
            return _VERIFIER
        case ["att", "command", _]:
            return frozenset(TENANTS)
    return _VERIFIER if subject.startswith(_POLICY_PREFIX) else _NOBODY


def commanders(command: Command) -> frozenset[Role]:
    """Return the roles that may give ``command``."""
    return _POLICY_COMMANDS if isinstance(command, PolicyCommand) else _AGENT_COMMANDS
