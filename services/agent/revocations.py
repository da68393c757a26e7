"""Hears revocations, verifies them, and misses none.

The server sends each stored revocation to connected agents with its sequence in the stream. A gap in the sequences, a start
and a reconnect are followed by reading what is missing from the stream itself; so is a long quiet time, for the last message
of all may be the one that was lost.

What is heard need not come from the stream. The server sends its answers to whatever subject a request names, so that any
agent can have old revocations sent to all others, many for one request. Hearing must therefore cost little, and reading the
stream is rationed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from attestream.bus.stored import get_batch
from attestream.clock import unix_ms
from attestream.errors import AttestreamError, BusError, ConfigError
from attestream.rates import TokenBucket
from schemas import subjects, topology
from schemas.base import Decoder, SchemaError
from schemas.events import Revocation, Signed
from services.agent.belief import Judge
from services.agent.private_file import read_private, write_private

_log = logging.getLogger(__name__)

CATCH_UP_S: Final = (600.0, 900.0)
"""Range of the time between two catch-ups of an agent that has heard nothing wrong."""

MAX_IDS: Final = 1024
"""Revocations that are remembered, so that none is acted on twice."""

LOOKS: Final = 8
LOOK_EVERY_S: Final = 5.0
"""What is heard makes an agent look at the stream so often at once, and then once in so many seconds."""

_BATCH: Final = 200
_FILE_NAME: Final = "revocations.state"
_FILE_LIMIT: Final = 1 << 20
_TIME_STAMP: Final = "Nats-Time-Stamp"
_SIGNED: Final = Decoder[Signed](Signed)
_REVOCATION: Final = Decoder[Revocation](Revocation)

Action = Callable[[Revocation], Awaitable[object]]


class _State(msgspec.Struct, frozen=True):
    """What is kept in the data directory."""

    sequence: int = 0
    """Of the last revocation that was dealt with."""
    ids: list[str] = []


class Revocations:
    """Calls ``action`` for each verified revocation, at least once over the life of the data directory.

    :param judge: whom it believes. What it refuses is logged and counted (:attr:`refused`), nothing more.
    """

    def __init__(self, bus: Bus, judge: Judge, data_dir: Path, action: Action) -> None:
        self.refused = 0
        """Messages that could not be verified."""
        self.verified = 0
        """Revocations that were acted on."""
        self._bus = bus
        self._judge = judge
        self._file = data_dir / _FILE_NAME
        self._action = action
        self._lock = asyncio.Lock()
        self._behind = asyncio.Event()
        self._looks = TokenBucket(LOOK_EVERY_S, LOOKS, time.monotonic)
        state = self._load()
        self._last = state.sequence
        self._ids = OrderedDict.fromkeys(state.ids)

    async def run(self) -> None:
        """Hear and catch up for ever.

        :raises BusError: when the connection is closed for good.
        """
        self._behind.set()

        async def notice() -> None:
            self._behind.set()

        forget = self._bus.on_reconnect(notice)
        subscription = await self._bus.subscribe(subjects.REVOKED, self._hear)
        try:
            while True:
                try:
                    async with asyncio.timeout(random.uniform(*CATCH_UP_S)):  # noqa: S311 - jitter, not a secret
                        await self._behind.wait()
                except TimeoutError:
                    _log.debug("looking for missed revocations")
                self._behind.clear()
                if not self._looks.take():
                    await asyncio.sleep(self._looks.wait_s)
                    self._looks.take()
                try:
                    await self.catch_up()
                except BusError as error:
                    _log.warning("missed revocations can not be read: %s", error)
                    await asyncio.sleep(random.uniform(1, 5))  # noqa: S311 - jitter, not a secret
                    self._behind.set()
        finally:
            forget()
            if not self._bus.nc.is_closed:
                await subscription.unsubscribe()

    async def catch_up(self) -> None:
        """Deal with what the stream holds behind the last known sequence.

        :raises BusError: when the stream can not be read.
        """
        async with self._lock:
            await self._catch_up()

    async def _catch_up(self) -> None:
        while True:
            request = {"seq": self._last + 1, "batch": _BATCH, "next_by_subj": ">"}
            batch = await get_batch(self._bus, topology.REVOCATIONS.name, request)
            for stored in batch.messages:
                await self._deal(stored.data, stored.at)
                self._last = max(self._last, stored.sequence)
            if not batch.messages:
                return
            await self._store()

    async def _hear(self, message: Msg) -> None:
        try:
            sequence = int((message.headers or {}).get(subjects.HEADER_SEQUENCE, "0"))
        except ValueError:
            sequence = 0
        async with self._lock:
            new = await self._deal(message.data, _stored_at(message))
            # Anyone might claim any sequence here: but for a revocation that is new, only the stream moves the mark.
            if new and sequence == self._last + 1:
                self._last = sequence
                await self._store()
                return
            if not self._looks.take():
                self._behind.set()
                return
            try:
                if new and sequence <= self._last and not await self._reaches_mark():
                    _log.warning("the revocations' stream has begun anew; reading all of it")
                    self._last = 0
                await self._catch_up()
            except BusError as error:
                _log.warning("missed revocations can not be read: %s", error)

    async def _reaches_mark(self) -> bool:
        """Whether the stream holds anything from the mark on: then an old one was sent again, and it has not begun anew."""
        request = {"seq": max(1, self._last), "batch": 1, "next_by_subj": ">"}
        return bool((await get_batch(self._bus, topology.REVOCATIONS.name, request)).messages)

    async def _deal(self, data: bytes, received_at: int) -> bool:
        """Verify one message and act on it, unless that was done before; return whether it was new."""
        try:
            signed = _SIGNED.decode(data)
            if _REVOCATION.decode(signed.payload).id in self._ids:
                # Whether it is the one that was dealt with or a forgery, nothing follows from it.
                return False
            revocation = await self._judge(signed, received_at)
        except (SchemaError, AttestreamError) as error:
            self.refused += 1
            if self.refused < LOOKS or self.refused & (self.refused - 1) == 0:
                _log.warning("a revocation was not believed (number %d): %s", self.refused, error)
            return False
        if revocation.id in self._ids:
            return False
        culprits = ", ".join(finding.culprit or finding.code for finding in revocation.findings[:3])
        _log.warning("agent %s is revoked: %s", revocation.agent_id, culprits)
        await self._action(revocation)
        self.verified += 1
        self._ids[revocation.id] = None
        while len(self._ids) > MAX_IDS:
            self._ids.popitem(last=False)
        return True

    def _load(self) -> _State:
        data = read_private(self._file, _FILE_LIMIT)
        if data is None:
            return _State()
        try:
            return msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.warning("%s is damaged: all revocations will be read again", self._file)
            return _State()

    async def _store(self) -> None:
        state = _State(sequence=self._last, ids=list(self._ids))
        try:
            await asyncio.to_thread(write_private, self._file, msgspec.msgpack.encode(state))
        except ConfigError as error:
            # Without the file revocations are acted on again after a restart; that is better than not at all.
            _log.error("%s", error)


def _stored_at(message: Msg) -> int:
    """Return the time at which the server says that it has stored a message that it sends on (Unix ms); else the present."""
    try:
        return int(datetime.fromisoformat((message.headers or {})[_TIME_STAMP]).timestamp() * 1000)
    except (KeyError, ValueError):
        return unix_ms()
