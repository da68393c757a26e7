"""Subscriptions without a queue and a task of their own: what they hear is dealt with as it is read. So are heartbeats.

The library puts each message into a queue, and a task of the subscription takes it out again. For a small message that
comes a thousand times a second that costs as much as everything that is done about it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from nats.protocol import parser as library
from nats.protocol.parser import AWAITING_CONTROL_LINE, MAX_CONTROL_LINE_SIZE, Parser

_LOG: Final = logging.getLogger(__name__)
_END: Final = b"\r\n"
MAX_HELD: Final = 1 << 20
"""The library puts longer messages together. Nats-server lets none pass unless it is told to."""

# The server puts spaces between fields, two where a message of its own has no reply; other white space is part of a subject.
_MSG: Final = re.compile(rb"MSG ([^ \r\n]+) +(\d{1,9}) +(?:([^ \r\n]+) +)?()(\d{1,9})\r\n")
_HMSG: Final = re.compile(rb"HMSG ([^ \r\n]+) +(\d{1,9}) +(?:([^ \r\n]+) +)?(\d{1,9}) +(\d{1,9})\r\n")
"""Subject, number of the subscription, perhaps where to reply, the headers' size, and the whole size."""
_HEARTBEAT: Final = b"NATS/1.0 100 "
"""How the headers begin by which a server shows that a pull still waits (ADR-37 of NATS, pull consumers)."""
library.MSG_RE = re.compile(rb"\AMSG ([^ \r\n]+) +(\d+) +(([^ \r\n]+) +)?(\d+)\r\n")
library.HMSG_RE = re.compile(rb"\AHMSG ([^ \r\n]+) +(\d+) +(([^ \r\n]+) +)?(\d+) +(\d+)\r\n")

Take = Callable[[str, bytes], None]
"""Called with subject and data of each message. It must be quick: nothing else is read meanwhile."""

Beat = Callable[[str], None]
"""Called with the subject of each heartbeat."""


class DirectParser(Parser):
    """The library's parser, which first takes out the messages of direct subscriptions.

    It cuts what was read into whole operations of the protocol, hands the library those that are no such messages, one at a
    time, and keeps what is not all there yet: so order is kept. What it does not understand it leaves to the library.
    """

    def __init__(self, nc: object) -> None:
        self.takers: dict[int, Take] = {}
        """Number of the subscription -> who takes its messages."""
        self.beats: dict[int, Beat] = {}
        """Number of the subscription -> who is told of heartbeats on it."""
        self._held = b""
        """The beginning of an operation whose end has not been read."""
        super().__init__(nc)

    def reset(self) -> None:
        """Forget what was read: the next bytes are of another connection."""
        super().reset()
        self._held = b""

    async def parse(self, data: bytes = b"") -> None:
        """Deal with what was read."""
        if self._held:
            data, self._held = self._held + data, b""
        if (self.takers or self.beats) and not self.buf and self.state == AWAITING_CONTROL_LINE:
            data = await self._directly(data)
        if data:
            await super().parse(data)

    def hand(self, take: Take, subject: bytes, data: bytes) -> None:
        """Have a message dealt with. What goes wrong must not end the reading."""
        try:
            take(subject.decode("ascii", "backslashreplace"), data)
        except Exception:  # noqa: BLE001  # whatever it is: nobody but the log could be told
            _LOG.exception("a subscription's callback failed")

    def _beat(self, line: re.Match[bytes], data: bytes, bare: bool) -> Take | None:
        """Return who is to be told, if the message is a heartbeat. One of a stream never is: it has a reply."""
        if not bare or line[3] or not data.startswith(_HEARTBEAT, line.end()):
            return None
        beat = self.beats.get(int(line[2]))
        return (lambda subject, _: beat(subject)) if beat is not None else None

    async def _directly(self, data: bytes) -> bytes:
        """Deal with the operations in ``data``; return what begins with one that the library must put together."""
        at = 0
        while at < len(data):
            line = _HMSG.match(data, at) or _MSG.match(data, at)
            if line is not None:
                headers, size = int(line[4] or 0), int(line[5])
                if not headers <= size <= MAX_HELD:
                    return data[at:]
                start = line.end()
                stop = start + size + len(_END)
                take = self.takers.get(int(line[2])) or self._beat(line, data, headers == size)
            else:
                stop = data.find(_END, at, at + MAX_CONTROL_LINE_SIZE) + len(_END)
                if stop < len(_END) and len(data) - at >= MAX_CONTROL_LINE_SIZE:
                    return data[at:]
                take = None
            if stop < len(_END) or stop > len(data):
                break
            if line is not None and take is not None:
                self.hand(take, line[1], data[start + headers : stop - len(_END)])
            else:
                await super().parse(data[at:stop])
                if self.buf or self.state != AWAITING_CONTROL_LINE:
                    return data[stop:]
            at = stop
        self._held = data[at:]
        return b""
