"""Streams to files and back, by the server's own snapshots: sequences, times, headers and consumers stay what they were.

The server sends a snapshot in chunks and waits for their receipts; it takes one back the same way and ends by making the
stream (ADR-1 of the NATS project, and ``server/jetstream_api.go``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from attestream.backup.contents import Appendable
from attestream.bus import jetstream
from attestream.errors import BusError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

CHUNK_BYTES: Final = 262_144

_SILENCE_S: Final = 30.0
_CREATE_S: Final = 120.0


class Snapshot(msgspec.Struct, frozen=True):
    """What the server tells of a stream that it sends."""

    config: dict[str, Any]
    state: dict[str, Any]

    @property
    def messages(self) -> int:
        """Number of messages in it."""
        return int(self.state.get("messages", 0))


async def save(bus: Bus, stream: str, file: Appendable) -> Snapshot:
    """Write ``stream`` with its consumers to ``file``.

    :raises BusError: the server refuses, breaks off, or is silent for 30 s.
    """
    chunks: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.nc.new_inbox()
    subscription = await bus.nc.subscribe(inbox, cb=chunks.put, pending_bytes_limit=0, pending_msgs_limit=0)
    try:
        request = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": CHUNK_BYTES, "jsck": True}
        answer = await jetstream.call(bus, f"STREAM.SNAPSHOT.{stream}", request, timeout_s=_SILENCE_S)
        while True:
            async with asyncio.timeout(_SILENCE_S):
                chunk = await chunks.get()
            if not chunk.data:
                _check_end(stream, chunk)
                return Snapshot(config=answer["config"], state=answer["state"])
            file.write(chunk.data)
            if chunk.reply:
                await bus.nc.publish(chunk.reply)
    except TimeoutError as error:
        raise BusError(f"the snapshot of {stream} broke off: nothing came for {_SILENCE_S:g} s") from error
    except nats.errors.Error as error:
        raise BusError(f"the snapshot of {stream} broke off: {error}") from error
    finally:
        await _quietly_unsubscribe(subscription)


async def load(bus: Bus, stream: str, snapshot: Snapshot, data: Iterator[bytes], *, replicas: int = 0) -> None:
    """Make ``stream`` from what :func:`save` wrote, on ``replicas`` servers (0: as many as before). There must be none.

    :raises BusError: the server refuses, or is silent.
    """
    config = snapshot.config | ({"num_replicas": replicas} if replicas else {})
    request = {"config": config, "state": snapshot.state}
    answer = await jetstream.call(bus, f"STREAM.RESTORE.{stream}", request, timeout_s=_SILENCE_S)
    target = answer["deliver_subject"]
    try:
        for block in data:
            for start in range(0, len(block), CHUNK_BYTES):
                reply = await bus.replies.ask(target, block[start : start + CHUNK_BYTES], None, _SILENCE_S)
                _check_answer(stream, reply.data)
        # Nothing more: the server now makes the stream, which takes as long as it is large.
        _check_answer(stream, (await bus.replies.ask(target, b"", None, _CREATE_S)).data)
    except (nats.errors.Error, TimeoutError) as error:
        raise BusError(f"{stream} could not be restored: {error or 'the server is silent'}") from error


def _check_end(stream: str, end: Msg) -> None:
    status = (end.headers or {}).get("Status", "")
    if status not in ("", "204"):
        description = (end.headers or {}).get("Description", "")
        raise BusError(f"the server broke off the snapshot of {stream}: {status} {description}")


def _check_answer(stream: str, data: bytes) -> None:
    if not data:
        return
    try:
        error = json.loads(data).get("error")
    except (ValueError, AttributeError) as failure:
        raise BusError(f"the server's answer while {stream} was restored can not be read") from failure
    if error:
        raise BusError(f"the server refused to restore {stream}: {error.get('description', '')}")


async def _quietly_unsubscribe(subscription: Any) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error:
        return  # the connection has gone, and the subscription with it
