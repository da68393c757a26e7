"""Subscriptions without a queue and a task of their own: what they hear is dealt with as it is read.

The library puts each message into a queue, and a task of the subscription takes it out again. For a small message that
comes a thousand times a second that costs as much as everything that is done about it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from nats.protocol import parser as library
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

_LOG: Final = logging.getLogger(__name__)
_END: Final = b"\r\n"
_WITHOUT: Final = b"MSG"
_WITH_HEADERS: Final = b"HMSG"
_FIELDS: Final = (3, 4)
"""Of the line before a message: subject, number of the subscription, perhaps where to reply, its size."""

# The server puts spaces between fields, two where a message of its own has no reply; other white space is part of a subject.
library.MSG_RE = re.compile(rb"\AMSG ([^ \r\n]+) +(\d+) +(([^ \r\n]+) +)?(\d+)\r\n")
library.HMSG_RE = re.compile(rb"\AHMSG ([^ \r\n]+) +(\d+) +(([^ \r\n]+) +)?(\d+) +(\d+)\r\n")

Take = Callable[[str, bytes], None]
"""Called with subject and data of each message. It must be quick: nothing else is read meanwhile."""


class DirectParser(Parser):
    """The library's parser, which first takes out the whole messages of direct subscriptions that are next in line.

    What it does not know, or what is not all there yet, it leaves to the library, and with it all that follows in the same
    read: :meth:`hand` is then called in its turn, so order is kept.
    """

    def __init__(self, nc: object) -> None:
        super().__init__(nc)
        self.takers: dict[int, Take] = {}
        """Number of the subscription -> who takes its messages."""

    async def parse(self, data: bytes = b"") -> None:
        """Deal with what was read."""
        if self.takers and not self.buf and self.state == AWAITING_CONTROL_LINE:
            data = self._directly(data)
        await super().parse(data)

    def hand(self, take: Take, subject: bytes, data: bytes) -> None:
        """Have a message dealt with. What goes wrong must not end the reading."""
        try:
            take(subject.decode("ascii", "backslashreplace"), data)
        except Exception:  # noqa: BLE001  # whatever it is: nobody but the log could be told
            _LOG.exception("a subscription's callback failed")

    def _directly(self, data: bytes) -> bytes:
        """Hand over the messages at the beginning of ``data``, and return the rest."""
        at = 0
        while (end := data.find(_END, at)) > 0:
            kind, *fields = data[at:end].split(b" ")
            headed = kind == _WITH_HEADERS
            if not (headed or kind == _WITHOUT) or len(fields) - headed not in _FIELDS:
                break
            try:
                take = self.takers.get(int(fields[1]))
                size, headers = int(fields[-1]), int(fields[-2]) if headed else 0
            except ValueError:
                break
            start = end + len(_END)
            stop = start + size
            if take is None or not 0 <= headers <= size or len(data) < stop + len(_END):
                break
            self.hand(take, fields[0], data[start + headers : stop])
            at = stop + len(_END)
        return data[at:]
