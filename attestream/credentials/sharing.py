"""What accounts of the bus share, in the form of their tokens' claims (``nats-io/jwt`` v2, ``Export`` and ``Import``)."""

from __future__ import annotations

from typing import Any, Final

from schemas.accounts import offers, shares
from schemas.roles import Role

_MANY: Final = "Stream"
_ONE: Final = "Singleton"


def exports() -> list[dict[str, Any]]:
    """Return what the home account lets the other accounts of the same operator import."""
    offered = offers()
    services = [
        {
            "name": service.subject,
            "subject": service.subject,
            "type": "service",
            "response_type": _MANY if service.many else _ONE,
        }
        for service in offered.services
    ]
    return services + [{"name": subject, "subject": subject, "type": "stream"} for subject in offered.streams]


def imports(guest: Role, home: str) -> list[dict[str, Any]]:
    """Return what the account of ``guest`` imports; ``home`` is the public key of the home account."""
    wanted = shares(guest)
    services = [
        _import(service.subject, home, "service") | ({"share": True} if service.told else {}) for service in wanted.services
    ]
    streams = [_import(subject, home, "stream") for subject in wanted.streams]
    return sorted([*services, *streams], key=lambda one: str(one["subject"]))


def _import(subject: str, home: str, kind: str) -> dict[str, Any]:
    return {"name": subject, "subject": subject, "account": home, "type": kind}
