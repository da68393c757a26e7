"""Calls to the JetStream API. All that are made here are idempotent, so they are repeated until the server answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import nats.errors

from attestream.errors import BusError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

STREAM_NOT_FOUND: Final = 10059
STREAM_EXISTS: Final = 10058
MESSAGE_NOT_FOUND: Final = 10037
CONSUMER_NOT_FOUND: Final = 10014

NO_ROOM: Final = frozenset({10047, 10028, 10002, 10122})
"""The server, or the account, has too little storage or memory for a stream of this size."""

_ATTEMPT_S: Final = 2.0
_PAUSE_S: Final = 0.1
_UNAVAILABLE: Final = 500


class ApiError(BusError):
    """The server refused a JetStream call; ``err_code`` is its number."""

    code = "bus-refused"
    remedy = "Check the bus's configuration: JetStream on, enough storage, the streams as `attestream init` makes them."

    def __init__(self, call_: str, err_code: int, description: str) -> None:
        super().__init__(f"{call_}: {description} ({err_code})")
        self.err_code = err_code


def nanoseconds(seconds: float) -> int:
    """Return a time as the JetStream API writes it."""
    return round(seconds * 1_000_000_000)


async def call(bus: Bus, subject: str, body: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> dict[str, Any]:
    """Return the answer to ``$JS.API.<subject>``.

    :raises ApiError: the server refused.
    :raises ForbiddenError: the credentials do not allow the call.
    :raises BusError: no answer within ``timeout_s`` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    payload = json.dumps(body).encode() if body is not None else b""
    while True:
        left = deadline - loop.time()
        try:
            await bus.connected(left)
            attempt_s = max(0.01, min(_ATTEMPT_S, left))
            message = await bus.replies.ask("$JS.API." + subject, payload, None, attempt_s, repeatable=True)
            answer: dict[str, Any] = json.loads(message.data)
            error = answer.get("error")
            if not error:
                return answer
            if error.get("code", 0) < _UNAVAILABLE or error.get("err_code") in NO_ROOM:
                raise ApiError(subject, error.get("err_code", 0), error.get("description", ""))
            reason = str(error.get("description", ""))
        except (nats.errors.Error, TimeoutError, OSError, ValueError) as failure:
            reason = str(failure) or type(failure).__name__
        if bus.nc.is_closed or loop.time() + _PAUSE_S >= deadline:
            raise BusError(f"{subject}: no answer within {timeout_s:g} s: {reason}")
        await asyncio.sleep(_PAUSE_S)
