"""A crowd of agents, each with a connection and an identity of its own, in one process.

A connection is a protocol of some hundred bytes of state in place of a client with tasks and buffers, so that ten thousand
fit: it speaks the NATS client protocol (docs.nats.io, "Client Protocol") as far as an agent needs it. It connects and comes
back as agents do, says hello, answers challenges with real quotes, and repeats what a stream has not confirmed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from attestream.clock import unix_ms
from attestream.credentials.document import Credentials
from devtools.soft_agent import SoftAgent
from schemas import subjects
from schemas.attestation import Challenge, Hello
from schemas.base import Decoder, encode
from schemas.roles import Role, inbox

_CHALLENGE: Final = Decoder[Challenge](Challenge)
_AGAIN_S: Final = 2.0
"""Seconds after which what was not confirmed is stored again, as `attestream.bus.durable` does."""
_LOOK_S: Final = 0.25
_RETRY_S: Final = (0.1, 2.0)
"""Seconds between attempts to connect: the first, the longest."""
_ORDERS: Final = b"1"
_ANSWERS: Final = b"2"
_REVOKED: Final = b"3"


class Unconfirmed(NamedTuple):
    """What a stream has not confirmed yet."""

    subject: str
    data: bytes
    message_id: str
    again_at: float


class Member(asyncio.Protocol):
    """One agent's connection."""

    __slots__ = ("_buffer", "_transport", "agent", "answered", "connected", "credentials", "crowd", "token", "waiting")

    def __init__(self, crowd: Crowd, agent: SoftAgent, credentials: Credentials) -> None:
        self.crowd = crowd
        self.agent = agent
        self.credentials = credentials
        self.token = subjects.token(agent.agent_id)
        self.waiting: dict[str, Unconfirmed] = {}
        self.connected = False
        self.answered = 0
        """Unix milliseconds of the last challenge that it has answered."""
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the server's first word."""
        # uvloop's transports are no subclasses.
        self._transport, self._buffer = cast("asyncio.Transport", transport), b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Come back, unless the crowd has gone."""
        self.crowd.lost(self)

    def data_received(self, data: bytes) -> None:
        """Take apart what the server says."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line = self._buffer[:end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                self._buffer = self._buffer[end + 2 :]
                self._control(line)
                continue
            words = line.split(b" ")
            whole = end + 2 + int(words[-1]) + 2
            if len(self._buffer) < whole:
                return
            body = self._buffer[end + 2 : whole - 2]
            self._buffer = self._buffer[whole:]
            headed = words[0] == b"HMSG"
            reply = words[3].decode() if len(words) == (6 if headed else 5) else ""
            head = int(words[-2]) if headed else 0
            if words[2] == _ORDERS:
                self._challenged(_CHALLENGE.decode(body[head:]), reply)
            elif words[2] == _ANSWERS:
                self._receipt(words[1].decode().rpartition(".")[2], body[head:])

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message; lost when the connection is."""
        self._write(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")

    def store(self, subject: str, data: bytes, message_id: str) -> None:
        """Send a message to a stream, again and again until it is confirmed."""
        number = uuid.uuid4().hex[:12]
        self.waiting[number] = Unconfirmed(subject, data, message_id, 0.0)
        self.crowd.unconfirmed.add(self)
        self.store_again(number, asyncio.get_running_loop().time())

    def store_again(self, number: str, now: float) -> None:
        """Send what waits under ``number``."""
        kept = self.waiting[number]
        self.waiting[number] = kept._replace(again_at=now + _AGAIN_S)
        head = f"NATS/1.0\r\n{subjects.HEADER_MESSAGE_ID}: {kept.message_id}\r\n\r\n".encode()
        reply = f"{inbox(Role.AGENT, self.token)}.{number}"
        sizes = f"{len(head)} {len(head) + len(kept.data)}"
        self._write(f"HPUB {kept.subject} {reply} {sizes}\r\n".encode() + head + kept.data + b"\r\n")

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _control(self, line: bytes) -> None:
        verb = line[:5].upper()
        if verb == b"INFO ":
            if not self.connected:
                self._log_in(json.loads(line[5:])["nonce"])
        elif verb.startswith(b"PING"):
            self._write(b"PONG\r\n")
        elif verb.startswith(b"PONG"):
            if not self.connected:
                self.connected = True
                self.crowd.entered(self)
        elif verb.startswith(b"-ERR"):
            self.crowd.complained(line.decode(errors="replace"))

    def _log_in(self, nonce: str) -> None:
        signature = base64.urlsafe_b64encode(self.credentials.key.sign(nonce.encode())).rstrip(b"=").decode()
        hello = {"jwt": self.credentials.token, "sig": signature, "headers": True, "no_responders": True}
        hello |= {"verbose": False, "pedantic": False, "lang": "crowd", "version": "1", "name": self.token, "echo": False}
        heard = {
            _ORDERS: f"att.agent.{self.token}.>",
            _ANSWERS: f"{inbox(Role.AGENT, self.token)}.>",
            _REVOKED: subjects.REVOKED,
        }
        listen = b"".join(f"SUB {subject} ".encode() + number + b"\r\n" for number, subject in heard.items())
        self._write(f"CONNECT {json.dumps(hello)}\r\n".encode() + listen + b"PING\r\n")

    def _receipt(self, number: str, answer: bytes) -> None:
        """Forget what a stream has stored. Anything else, such as that nobody listens yet, leaves it to be sent again."""
        if answer and "error" not in json.loads(answer):
            self.waiting.pop(number, None)

    def _challenged(self, challenge: Challenge, reply: str) -> None:
        self.crowd.asked(self, challenge)
        evidence = self.agent.answer(challenge)
        self.answered = unix_ms()
        if not self.agent.is_news(evidence):
            self.publish(reply, encode(evidence))
            return
        message_id = f"{self.agent.agent_id}:{evidence.enrolment}:{evidence.seq}:{evidence.nonce[:8].hex()}"
        self.store(subjects.evidence(self.agent.agent_id), encode(evidence), message_id)


class Crowd:
    """The members, and what all of them share.

    :param spread_s: width of the random delay before the first attempt to come back.
    """

    def __init__(self, url: str, agents: Sequence[tuple[SoftAgent, Credentials]], *, spread_s: float = 1.0) -> None:
        place = urlsplit(url)
        self._host, self._port = str(place.hostname), int(place.port or 4222)
        self._spread_s = spread_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False
        self.members = [Member(self, agent, credentials) for agent, credentials in agents]
        self.connected = 0
        self.unconfirmed: set[Member] = set()
        self.complaints: dict[str, int] = {}
        """What servers have refused, and how often."""
        self._looking: asyncio.Task[None] | None = None

    async def enter(self, *, at_once: int = 200) -> None:
        """Connect everybody, so many at a time."""
        self._looking = asyncio.create_task(self._look())
        turns = asyncio.Semaphore(at_once)

        async def one(member: Member) -> None:
            async with turns:
                await self._connect(member, 0.0)

        await asyncio.gather(*(one(member) for member in self.members))

    def leave(self) -> None:
        """Disconnect everybody for good."""
        self._gone = True
        for task in (*self._tasks, self._looking):
            if task is not None:
                task.cancel()
        for member in self.members:
            member.close()

    def entered(self, member: Member) -> None:
        """A member is in: it says hello, as an agent does at the start and after each return."""
        self.connected += 1
        agent = member.agent
        hello = Hello(agent_id=agent.agent_id, enrolment=agent.enrolment, at=unix_ms())
        member.store(subjects.evidence(agent.agent_id), encode(hello), f"{agent.agent_id}:hello:{uuid.uuid4().hex}")

    def asked(self, member: Member, challenge: Challenge) -> None:
        """Called before a member answers a challenge; for crowds that live meanwhile."""

    def lost(self, member: Member) -> None:
        """A member has lost its connection."""
        self.connected -= member.connected
        member.connected = False
        if not self._gone:
            self._spawn(self._connect(member, random.uniform(0, self._spread_s)))

    def complained(self, line: str) -> None:
        """A server has refused something."""
        self.complaints[line] = self.complaints.get(line, 0) + 1

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, member: Member, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], Member] = lambda: member  # noqa: E731 - what the loop asks for
        pause = _RETRY_S[0]
        while True:
            await asyncio.sleep(delay_s)
            try:
                await loop.create_connection(make, self._host, self._port)
            except OSError:
                delay_s = random.uniform(pause / 2, pause)
                pause = min(2 * pause, _RETRY_S[1])
            else:
                return

    async def _look(self) -> None:
        """Send again what was not confirmed in time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = loop.time()
            for member in list(self.unconfirmed):
                if not member.waiting:
                    self.unconfirmed.discard(member)
                elif member.connected:
                    for number, kept in list(member.waiting.items()):
                        if kept.again_at <= now:
                            member.store_again(number, now)
