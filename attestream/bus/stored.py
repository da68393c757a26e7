"""Reading what streams hold, without consumers: batched direct gets (ADR-31 of the NATS project).

Any replica may answer a direct get, so it can be a moment behind; :func:`last_message` asks the stream's leader.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from attestream.bus import jetstream
from attestream.errors import BusError
from schemas import subjects

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

CHUNK: Final = 512
"""Subjects in one request; the server answers 413 to more than 1,024 results whatever the batch."""

_ATTEMPT_S: Final = 5.0
_TIMEOUT_S: Final = 15.0
_PAUSE_S: Final = 0.1
_END: Final = "204"
_NOTHING: Final = "404"
_TOO_MANY: Final = "413"


class Stored(msgspec.Struct, frozen=True):
    """A message of a stream."""

    subject: str
    sequence: int
    data: bytes
    headers: dict[str, str]
    at: int
    """Unix time in milliseconds at which it was stored."""

    @property
    def marker(self) -> str:
        """Why the server put a delete marker here (``MaxAge``, ``Remove``, ``Purge``); empty for a message."""
        return self.headers.get(subjects.HEADER_MARKER, "")


class Batch(msgspec.Struct):
    """What one direct get brought."""

    messages: list[Stored]
    status: str
    """``204``: the end; ``404``: nothing; ``413``: too many."""
    pending: int = 0
    """Messages that the batch left out."""

    @property
    def whole(self) -> bool:
        """Whether nothing that was asked for was left out."""
        return self.status in (_END, _NOTHING) and not self.pending


async def last_messages(
    bus: Bus, stream: str, filters: list[str], *, reached: tuple[str, int] | None = None
) -> list[Stored]:
    """Return the last message of every subject that matches ``filters`` (wildcards allowed), in the stream's order.

    Delete markers are among them (:attr:`Stored.marker`). Any number of subjects may match. ``reached`` is a subject and the
    sequence of a message on it: replicas that do not have it yet are asked again.

    :raises BusError: the bus or the stream does not answer.
    """
    found: dict[str, Stored] = {}
    chunks = [filters[start : start + CHUNK] for start in range(0, len(filters), CHUNK)]
    while chunks:
        chunk = chunks.pop()
        batch = await _last_of_each(bus, stream, chunk, reached)
        if batch.status != _TOO_MANY:
            found.update((message.subject, message) for message in batch.messages)
        elif len(chunk) > 1:
            chunks += [chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]]
        else:
            found.update({message.subject: message async for message in messages(bus, stream, chunk[0])})
    return sorted(found.values(), key=lambda message: message.sequence)


async def _last_of_each(bus: Bus, stream: str, filters: list[str], reached: tuple[str, int] | None) -> Batch:
    if reached is None:
        return await get_batch(bus, stream, {"multi_last": filters, "batch": CHUNK * 2})
    subject, sequence = reached
    deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
    while True:
        batch = await get_batch(bus, stream, {"multi_last": [*filters, subject], "batch": CHUNK * 2})
        seen = [message.sequence for message in batch.messages if message.subject == subject]
        if batch.status == _TOO_MANY or (seen and seen[0] >= sequence):
            batch.messages = [message for message in batch.messages if message.subject != subject]
            return batch
        if asyncio.get_running_loop().time() >= deadline:
            raise BusError(f"no replica of {stream} has come up to message {sequence}")
        await asyncio.sleep(_PAUSE_S)


async def messages(bus: Bus, stream: str, pattern: str = ">", first: int = 1) -> AsyncIterator[Stored]:
    """Yield what the stream holds under subjects that match ``pattern``, from sequence ``first`` on, in its order.

    :raises BusError: the bus or the stream does not answer.
    """
    while True:
        batch = await get_batch(bus, stream, {"seq": first, "next_by_subj": pattern, "batch": CHUNK})
        for message in batch.messages:
            yield message
        if not batch.messages:
            return
        first = batch.messages[-1].sequence + 1


async def last_message(bus: Bus, stream: str, subject: str) -> Stored | None:
    """Return the last message of one subject, or ``None``: as the stream's leader has it, or, to a guest of the account that
    holds the stream, as any replica has it.

    :raises BusError: the bus or the stream does not answer.
    """
    if bus.guest:
        batch = await get_batch(bus, stream, {"multi_last": [subject], "batch": 1})
        return batch.messages[0] if batch.messages else None
    try:
        answer = await jetstream.call(bus, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except jetstream.ApiError as error:
        if error.err_code == jetstream.MESSAGE_NOT_FOUND:
            return None
        raise
    message = answer["message"]
    return Stored(
        subject=message["subject"],
        sequence=message["seq"],
        data=base64.b64decode(message.get("data", "")),
        headers=_header_lines(base64.b64decode(message.get("hdrs", ""))),
        at=_milliseconds(message["time"]),
    )


async def replica_message(bus: Bus, stream: str, subject: str) -> Stored | None:
    """Return the last message of one subject, or ``None``, as any replica has it. The right to ask for it can be given for
    this subject alone.

    :raises BusError: no answer came within 15 s.
    """
    return await _one(bus, stream, f"{stream}.{subject}", b"")


async def last_sequence(bus: Bus, stream: str) -> int:
    """Return the sequence of the last message that any replica of ``stream`` has, 0 when it holds none.

    :raises BusError: no answer came within 15 s.
    """
    last = await _one(bus, stream, stream, b'{"last_by_subj":">"}')
    return last.sequence if last is not None else 0


async def _one(bus: Bus, stream: str, place: str, request: bytes) -> Stored | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT_S
    reason = "no answer"
    while not bus.nc.is_closed and (left := deadline - loop.time()) > 0:
        try:
            await bus.connected(left)
            attempt_s = min(_ATTEMPT_S, left)
            message = await bus.replies.ask(f"$JS.API.DIRECT.GET.{place}", request, None, attempt_s, repeatable=True)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
        else:
            headers = message.headers or {}
            if subjects.HEADER_SEQUENCE in headers:
                return _stored(message.data, headers)
            if headers.get("Status") == _NOTHING:
                return None
            reason = f"status {headers.get('Status', '')}"
        await asyncio.sleep(_PAUSE_S)
    raise BusError(f"stream {stream} can not be read: {reason}")


async def get_batch(bus: Bus, stream: str, request: dict[str, Any]) -> Batch:
    """Return the answer to one batched direct get. An interrupted answer is asked for again.

    :raises ForbiddenError: the credentials do not allow to read the stream.
    :raises BusError: no whole answer came within 15 s.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT_S
    reason = "no answer"
    while loop.time() < deadline:
        try:
            await bus.connected(deadline - loop.time())
            batch = await _attempt(bus, stream, json.dumps(request).encode())
        except (nats.errors.Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
        else:
            if batch.status in (_END, _NOTHING, _TOO_MANY):
                return batch
            reason = f"status {batch.status}"
        if bus.nc.is_closed:
            break
        await asyncio.sleep(_PAUSE_S)
    raise BusError(f"stream {stream} can not be read: {reason}")


async def _attempt(bus: Bus, stream: str, payload: bytes) -> Batch:
    messages: list[Stored] = []
    end: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        # A stored message may carry a header named Status; only the server's own answer has no sequence.
        if subjects.HEADER_SEQUENCE in headers:
            messages.append(_stored(message.data, headers))
        elif not end.done():
            pending = headers.get("Nats-Num-Pending", "0")
            end.set_result(Batch(messages=messages, status=headers.get("Status", ""), pending=int(pending)))

    inbox = bus.nc.new_inbox()
    subject = f"$JS.API.DIRECT.GET.{stream}"
    subscription = await bus.nc.subscribe(inbox, cb=take, pending_bytes_limit=0)
    try:
        with bus.nc.hurried(), bus.violations.watch("publish", subject, end):
            await bus.nc.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(_ATTEMPT_S):
                return await end
    finally:
        if not bus.nc.is_closed:
            await subscription.unsubscribe()


def _stored(data: bytes, headers: dict[str, str]) -> Stored:
    return Stored(
        subject=headers["Nats-Subject"],
        sequence=int(headers[subjects.HEADER_SEQUENCE]),
        data=data,
        headers=headers,
        at=_milliseconds(headers["Nats-Time-Stamp"]),
    )


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _header_lines(block: bytes) -> dict[str, str]:
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, separator, value in (line.partition(":") for line in lines) if separator}
