"""Sending tenant commands and hearing how they ended.

A command is stored before anybody executes it. Its outcome comes to a private inbox; when it does not come in time, the
command is still accepted and is executed as soon as a verifier is back. Sending a command again with the same id executes
it once.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import socket
import uuid
from typing import TYPE_CHECKING, Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.clock import unix_ms
from attestream.errors import AttestreamError, MalformedError, StaleRosterError, TimedOutError
from schemas import subjects
from schemas.base import SchemaError, decode
from schemas.commands import Command, Outcome, about
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_PENDING_LIMIT: Final = 1 << 20
_log = logging.getLogger("attestream.client")


class PendingCommandError(TimedOutError):
    """A command that is accepted, with no outcome yet."""

    code = "command-pending"
    remedy = "It is kept and will be executed when a verifier is back; `attestream events tail` shows it then."

    def __init__(self, command_id: str, timeout_s: float) -> None:
        super().__init__(f"no verifier has executed the command within {timeout_s:g} s (command {command_id})")
        self.command_id = command_id


def new_command_id() -> str:
    """Return an id for a new command."""
    return uuid.uuid4().hex


def actor() -> str:
    """Return who gives commands from this process: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in the user database, as in a container
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def subject_of(command: Command) -> str:
    """Return where ``command`` is published.

    :raises MalformedError: when its agent or policy has an impossible name.
    """
    try:
        return subjects.command(about(command))
    except SchemaError as error:
        raise MalformedError(str(error)) from error


class Commander:
    """Sends commands over one connection; any number may be under way."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.nc.new_inbox()
        self._subscription: Subscription | None = None
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    async def send(self, command: Command, *, timeout_s: float = 10.0) -> Outcome:
        """Send ``command`` and return its outcome, which may be a refusal (``ok`` is false).

        :raises PendingCommandError: when it is accepted but has no outcome after ``timeout_s`` seconds.
        :raises MalformedError: when its agent or policy has an impossible name.
        :raises BusError: when it could not be stored.
        """
        subject = subject_of(command)
        if self._subscription is None:
            self._subscription = await self._bus.nc.subscribe(
                self._inbox, cb=self._take, pending_msgs_limit=_PENDING_LIMIT, pending_bytes_limit=0
            )
        future = self._waiting.setdefault(command.command_id, asyncio.get_running_loop().create_future())
        try:
            await self._bus.publish_durable(
                subject,
                command,
                message_id=command.command_id,
                headers={subjects.HEADER_REPLY_TO: self._inbox},
                sign=True,
            )
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except TimeoutError as error:
            raise PendingCommandError(command.command_id, timeout_s) from error
        finally:
            self._waiting.pop(command.command_id, None)

    async def _take(self, message: Msg) -> None:
        try:
            await self._bus.trust.author(self._inbox, message.data, message.headers, unix_ms(), (Role.VERIFIER,))
            outcome = decode(message.data, Outcome)
        except StaleRosterError as error:
            # Whoever waits is to hear why, and not that nobody has answered.
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)
            return
        except (AttestreamError, SchemaError) as error:
            _log.error("an outcome is not believed: %s", error)
            return
        future = self._waiting.get(outcome.command_id)
        if future is not None and not future.done():
            future.set_result(outcome)
