"""A message as a consumer's handler sees it, and how it is settled."""

from __future__ import annotations

import json
import logging
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from attestream.bus.jetstream import nanoseconds
from attestream.errors import MalformedError
from schemas import subjects

_LOG: Final = logging.getLogger(__name__)

ACK_PREFIX: Final = "$JS.ACK."
_PLAIN_TOKENS: Final = 9
_DOMAIN_TOKENS: Final = 11


class Delivery:
    """One delivery of one message.

    Settling is fire and forget: an acknowledgement that is lost makes the message come again after the consumer's
    ``ack_wait_s``, so handlers must bear repeats.
    """

    __slots__ = ("_nc", "_reply", "at", "data", "deliveries", "headers", "number", "sequence", "subject")

    subject: str
    data: bytes
    headers: dict[str, str]
    sequence: int
    """In the stream."""
    number: int
    """Among all deliveries of its consumer, repeats included: they are numbered without a gap."""
    deliveries: int
    """1 for the first."""
    at: int
    """Unix time in milliseconds at which the stream stored it."""

    def __init__(self, nc: Client, message: Msg) -> None:
        self._nc = nc
        self._reply = message.reply
        self.subject = message.subject
        self.data = message.data
        self.headers = message.headers or {}
        self.deliveries, self.sequence, self.number, self.at = parse_ack_subject(message.reply)

    @property
    def marker(self) -> str:
        """Why the server put a delete marker here (``MaxAge`` when a life has ended); empty for a message."""
        return self.headers.get(subjects.HEADER_MARKER, "")

    @property
    def size(self) -> int:
        """Bytes of its data and headers."""
        return len(self.data) + sum(len(name) + len(value) for name, value in self.headers.items())

    async def ack(self) -> None:
        """Settle it: it is not delivered again."""
        await self._settle(b"+ACK")

    async def retry(self, delay_s: float = 0.0) -> None:
        """Have it delivered again after ``delay_s`` seconds."""
        if delay_s <= 0:
            await self._settle(b"-NAK")
        else:
            await self._settle(b"-NAK " + json.dumps({"delay": nanoseconds(delay_s)}).encode())

    async def working(self) -> None:
        """Start the consumer's ``ack_wait_s`` anew."""
        await self._settle(b"+WPI")

    async def terminate(self) -> None:
        """Settle it as one that can not be processed."""
        await self._settle(b"+TERM")

    async def _settle(self, word: bytes) -> None:
        try:
            await self._nc.publish(self._reply, word)
        except nats.errors.Error as error:
            _LOG.info("%s of message %d is lost, it will come again: %s", word[:4].decode(), self.sequence, error)


def parse_ack_subject(reply: str) -> tuple[int, int, int, int]:
    """Return deliveries, stream sequence, consumer sequence and time (Unix ms) from a delivery's reply subject.

    ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>``, or with ``<domain>.<account
    hash>`` before the stream and perhaps a random token at the end.

    :raises MalformedError: it is neither.
    """
    tokens = reply.split(".")
    count = len(tokens)
    if count == _PLAIN_TOKENS:
        first = 4
    elif count >= _DOMAIN_TOKENS:
        first = 6
    else:
        raise MalformedError(f"{reply[:200]!r} is not the reply subject of a delivery")
    try:
        deliveries, sequence, number, at = (int(token) for token in tokens[first : first + 4])
        return deliveries, sequence, number, at // 1_000_000
    except ValueError as error:
        raise MalformedError(f"{reply[:200]!r} is not the reply subject of a delivery") from error
