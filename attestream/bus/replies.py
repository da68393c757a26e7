"""Replies to requests: one inbox for each connection, one future for each question.

Cheaper than the client's own request (no random token, no task for each request), and the only place where ``no responders``
becomes an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Final

from nats.aio.msg import Msg
from nats.errors import ConnectionReconnectingError, NoRespondersError

from attestream.bus.refusals import Violations
from attestream.bus.transport import BoundedClient

_NO_RESPONDERS: Final = "503"
_PENDING_LIMIT: Final = 1 << 20


class Replies:
    """The reply inbox of a connection. Its prefix is random, so the tokens after it need not be."""

    def __init__(self, nc: BoundedClient, violations: Violations) -> None:
        self._nc = nc
        self._violations = violations
        self._prefix = ""
        self._skip = 0
        self._tokens = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._repeatable: set[asyncio.Future[Msg]] = set()

    async def start(self) -> None:
        """Subscribe to the inbox; survives reconnects. Not before the client knows under which prefix its inboxes are."""
        self._prefix = self._nc.new_inbox() + "."
        self._skip = len(self._prefix)
        await self._nc.subscribe(self._prefix + "*", cb=self._take, pending_msgs_limit=_PENDING_LIMIT, pending_bytes_limit=0)

    async def ask(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        timeout_s: float,
        *,
        repeatable: bool = False,
        patient: bool = False,
    ) -> Msg:
        """Publish ``data`` and return the first reply.

        A ``repeatable`` question ends as soon as the connection is lost, so that it can be asked again at once; others wait
        on, for the answer may come over the next connection. While a ``patient`` one waits, messages may gather as ever.

        :raises NoRespondersError: nobody listens to ``subject``.
        :raises ConnectionReconnectingError: the connection was lost under a repeatable question.
        :raises ForbiddenError: the credentials do not allow to publish there.
        :raises TimeoutError: no reply came in time.
        """
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        if repeatable:
            self._repeatable.add(future)
        try:
            hurried = contextlib.nullcontext() if patient else self._nc.hurried()
            with hurried, self._violations.watch("publish", subject, future):
                async with asyncio.timeout(timeout_s):
                    await self._nc.publish(subject, data, reply=self._prefix + token, headers=headers)
                    message = await future
        finally:
            del self._waiting[token]
            self._repeatable.discard(future)
        if message.headers and not message.data and message.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError
        return message

    def interrupt(self) -> None:
        """End the repeatable questions: the connection is lost."""
        for future in self._repeatable:
            if not future.done():
                future.set_exception(ConnectionReconnectingError())

    async def _take(self, message: Msg) -> None:
        future = self._waiting.get(message.subject[self._skip :])
        if future is not None and not future.done():
            future.set_result(message)
