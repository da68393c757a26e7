"""A role's grant in the form that the bus enforces: the template of a scoped signing key."""

from __future__ import annotations

from typing import Any, Final

from schemas.roles import Grant, Role, grant

EVERYTHING: Final = ">"
_NS_PER_S: Final = 1_000_000_000


def template(role: Role) -> dict[str, Any]:
    """Return the permissions and limits of every user whose token the signing key of ``role`` has signed."""
    return of_grant(grant(role))


def of_grant(granted: Grant) -> dict[str, Any]:
    """Return the template of one grant. What it does not name is refused."""
    return narrow(
        publish=granted.publish,
        subscribe=granted.subscribe,
        replies=granted.replies,
        reply_s=granted.reply_s,
        subscriptions=granted.subscriptions,
        payload=granted.payload,
    )


def narrow(
    *,
    publish: list[str],
    subscribe: list[str],
    replies: int = 0,
    reply_s: int = 0,
    subscriptions: int = -1,
    payload: int = -1,
) -> dict[str, Any]:
    """Return a template; an empty list allows nothing. -1 is no limit but the server's."""
    made: dict[str, Any] = {
        "pub": _allowing(publish),
        "sub": _allowing(subscribe),
        "subs": subscriptions,
        "data": -1,
        "payload": payload,
    }
    if replies:
        made["resp"] = {"max": replies, "ttl": reply_s * _NS_PER_S}
    return made


def _allowing(subjects: list[str]) -> dict[str, list[str]]:
    # To the server an empty list of allowed subjects means all of them.
    return {"allow": sorted(set(subjects))} if subjects else {"deny": [EVERYTHING]}
