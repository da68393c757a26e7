"""The accounts of the bus, and what passes between them: exactly what the grants of the roles in them need.

The server answers a request, and confirms what it stores, under whatever subject the client names for the reply; it does not
ask whether that client may publish there (nats-server 2.15). In the account of the streams, the right to publish into one
stream or to read one message would therefore be the right to write into, to empty and to delete every other. So that account
is the services' alone. Each other role has an account of its own, closed but for :func:`shares`, and a reply subject there
can name nothing that the role might not use anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.base import Part
from schemas.roles import GRANTS, NAME, SERVICES, Role, grant, inbox
from schemas.subjects import REGISTRAR_ACTIVATE, REGISTRAR_ENROL

HOME: Final = "services"
"""The account of the streams, the buckets and the services that keep them."""

GUESTS: Final = tuple(granted.role for granted in GRANTS if granted.role not in SERVICES)
"""Roles with an account of their own, which bears the role's name."""

SERVER_CONNECTIONS: Final = 131_072
"""Most connections of one server of the bus: more than all guests may have together, so that services always get in."""

_CONNECTIONS: Final = {Role.AGENT: 114_688, Role.ENROLMENT: 8_192}
_OTHER_CONNECTIONS: Final = 1_024

_TOLD: Final = (REGISTRAR_ENROL, REGISTRAR_ACTIVATE)
_BATCHES: Final = "$JS.API.DIRECT.GET."


class Service(Part, frozen=True, order=True):
    """Requests that guests may make, and the answers to them."""

    subject: str
    many: bool
    """Whether one request has many answers."""
    told: bool = False
    """Whether the server tells who asks: from which address."""


class Shares(Part, frozen=True):
    """What passes between the home account and others."""

    services: list[Service]
    streams: list[str]
    """Subjects that guests may hear."""


def account_of(role: Role) -> str:
    """Return the name of the account in which identities of ``role`` live."""
    return str(role) if role in GUESTS else HOME


def connections(guest: Role) -> int:
    """Return how many connections the account of ``guest`` may have, on all servers of the bus together."""
    return _CONNECTIONS.get(guest, _OTHER_CONNECTIONS)


def shares(guest: Role) -> Shares:
    """Return what the account of ``guest`` imports from the home account."""
    granted = grant(guest)
    requests = {_anybody(subject) for subject in granted.publish}
    if granted.replies:
        # Answers to what the services ask; it may give one only where it was asked.
        requests.add(inbox(Role.VERIFIER, ">"))
    heard = {_anybody(subject) for subject in granted.subscribe if not subject.startswith("_INBOX_")}
    heard |= {subject for subject in _unasked() if subject == inbox(guest, ">")}
    return Shares(
        services=sorted(Service(subject, subject.startswith(_BATCHES), subject in _TOLD) for subject in requests),
        streams=sorted(heard),
    )


def offers() -> Shares:
    """Return what the home account exports: what some guest imports."""
    wanted = [shares(guest) for guest in GUESTS]
    return Shares(
        services=sorted({service for one in wanted for service in one.services}),
        streams=sorted({subject for one in wanted for subject in one.streams}),
    )


def _anybody(subject: str) -> str:
    return subject.replace(NAME, "*")


def _unasked() -> Iterator[str]:
    """Yield the inboxes to which a service publishes of its own accord: outcomes of commands."""
    for role in SERVICES:
        yield from (subject for subject in grant(role).publish if subject.startswith("_INBOX_"))
