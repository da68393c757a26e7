"""A client of the bus that only asks what the server lets it do: it speaks the protocol itself, so nothing is tidied up."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from attestream.credentials.document import Credentials, parse

_VIOLATION = "permissions violation"


class Heard(NamedTuple):
    """A message that reached the probe."""

    subject: str
    reply: str
    data: bytes
    """With its headers in front."""


class Probe:
    """One connection under one identity."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._subscriptions = 0
        self.heard: list[Heard] = []
        """Messages of all subscriptions so far."""

    @classmethod
    async def open(cls, url: str, credentials: Path | Credentials) -> Self:
        """Connect with the identity in a credentials file, or with one that nothing has checked.

        :raises ConnectionRefusedError: the server does not let it in.
        """
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 22)
        info = json.loads((await reader.readline()).decode().removeprefix("INFO "))
        identity = parse(credentials.read_text()) if isinstance(credentials, Path) else credentials
        signature = base64.urlsafe_b64encode(identity.key.sign(info["nonce"].encode())).rstrip(b"=").decode()
        hello = {"jwt": identity.token, "sig": signature, "headers": True, "no_responders": True, "verbose": False}
        writer.write(f"CONNECT {json.dumps(hello | {'pedantic': False, 'lang': 'probe', 'version': '1'})}\r\n".encode())
        probe = cls(reader, writer)
        errors = await probe._settle()
        if errors:
            raise ConnectionRefusedError("; ".join(errors))
        return probe

    async def refused_publishes(self, subjects: Iterable[str], *, data: bytes = b"?", reply: str = "") -> set[str]:
        """Publish on each of ``subjects`` and return those that the server refused for want of permission."""
        wanted = list(subjects)
        for subject in wanted:
            self.send(subject, data, reply)
        return await self._violations(wanted)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Publish, and have the server say how it went."""
        head = f"PUB {subject} {reply} {len(data)}" if reply else f"PUB {subject} {len(data)}"
        self._writer.write(head.encode() + b"\r\n" + data + b"\r\nPING\r\n")

    async def refused_subscriptions(self, subjects: Iterable[str], *, keep: bool = False) -> set[str]:
        """Subscribe to each of ``subjects`` and return those that were refused; the others are given up unless ``keep``."""
        wanted = list(subjects)
        for subject in wanted:
            self._subscriptions += 1
            end = "" if keep else f"UNSUB {self._subscriptions}\r\n"
            self._writer.write(f"SUB {subject} {self._subscriptions}\r\n{end}PING\r\n".encode())
        return await self._violations(wanted)

    async def publish(self, subject: str, data: bytes = b"", reply: str = "") -> bool:
        """Publish one message; return whether the server took it."""
        return not await self.refused_publishes([subject], data=data, reply=reply)

    async def subscribe(self, subject: str) -> bool:
        """Subscribe for the rest of the connection; return whether the server allowed it."""
        return not await self.refused_subscriptions([subject], keep=True)

    async def ask(self, subject: str, data: bytes, inbox: str, timeout_s: float = 5.0) -> bytes | None:
        """Return the first answer, or ``None`` when none came in time. ``inbox`` must be subscribed."""
        before = len(self.heard)
        if not await self.publish(subject, data, inbox):
            return None
        try:
            async with asyncio.timeout(timeout_s):
                while not (answers := [heard for heard in self.heard[before:] if heard.subject == inbox]):
                    await self.flush()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return None
        return answers[0].data

    async def flush(self) -> list[str]:
        """Wait until the server has dealt with everything so far; return its complaints."""
        return await self._settle()

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _violations(self, subjects: list[str]) -> set[str]:
        await self._writer.drain()
        refused = set()
        for subject in subjects:
            errors = await self._pong()
            unexpected = [error for error in errors if _VIOLATION not in error.lower()]
            if unexpected:
                raise ConnectionAbortedError(f"{subject}: {unexpected}")
            if errors:
                refused.add(subject)
        return refused

    async def _settle(self) -> list[str]:
        self._writer.write(b"PING\r\n")
        await self._writer.drain()
        return await self._pong()

    async def _pong(self) -> list[str]:
        """Read up to the next PONG and return the errors before it."""
        errors: list[str] = []
        while True:
            line = (await self._reader.readline()).decode().rstrip("\r\n")
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "PONG":
                    return errors
                case "-ERR":
                    errors.append(rest.strip("'"))
                case "PING":
                    self._writer.write(b"PONG\r\n")
                case "MSG" | "HMSG":
                    await self._message(verb.upper(), rest.split())
                case "":
                    return [*errors, "the server has closed the connection"]

    async def _message(self, verb: str, words: list[str]) -> None:
        # MSG subject sid [reply] size; HMSG has the size of the headers before that of the whole.
        counts = 1 if verb == "MSG" else 2
        data = await self._reader.readexactly(int(words[-1]) + 2)
        reply = words[2] if len(words) == 3 + counts else ""
        self.heard.append(Heard(words[0], reply, data[:-2]))
