"""Key-value buckets by raw compare-and-set: with a life for each key, and markers read as absence.

Any NATS client can read these buckets. The client library's own calls can not be used: they take an expiry marker for a
value, so that a lapsed key could not be created again while its marker lives.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from attestream.bus.stored import Stored, last_message, last_messages
from attestream.errors import FencedError, MalformedError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_KEY: Final = re.compile(r"[-/_=A-Za-z0-9]+(\.[-/_=A-Za-z0-9]+)*\Z", re.ASCII)
_OPERATION: Final = "KV-Operation"
_GONE: Final = ("DEL", "PURGE")


class Entry(msgspec.Struct, frozen=True):
    """The value of a key."""

    key: str
    value: bytes
    revision: int
    """Sequence in the bucket's stream: what ``expected`` compares with."""
    at: int
    """Unix time in milliseconds of the write."""
    headers: dict[str, str] = {}
    subject: str = ""
    """Under which the bucket's stream holds it."""

    @property
    def data(self) -> bytes:
        """The value, as of a stored message."""
        return self.value


async def get(bus: Bus, bucket: str, key: str) -> Entry | None:
    """Return the entry as the bucket's leader has it; ``None`` when there is none, or it was deleted or has expired.

    :raises BusError: the bus does not answer.
    """
    stored = await last_message(bus, f"KV_{bucket}", _subject(bucket, key))
    return None if stored is None or _absent(stored) else _entry(bucket, stored)


async def entries(bus: Bus, bucket: str, pattern: str = ">") -> dict[str, Entry]:
    """Return the entries whose key matches ``pattern`` (NATS wildcards). May be a moment behind on a replicated bucket.

    :raises BusError: the bus does not answer.
    """
    found = await last_messages(bus, f"KV_{bucket}", [f"$KV.{bucket}.{pattern}"])
    alive = [_entry(bucket, stored) for stored in found if not _absent(stored)]
    return {entry.key: entry for entry in alive}


async def hear(bus: Bus, bucket: str, pattern: str, take: Callable[[str, bytes], None]) -> None:
    """Have ``take`` called with key and value of whatever is written where the key matches ``pattern``.

    The value is empty where a key is deleted. Nobody is told of one that lapses, nor while the connection is down: this says
    when to look, not what there is.
    """
    skip = len(f"$KV.{bucket}.")
    await bus.nc.hear(f"$KV.{bucket}.{pattern}", lambda subject, data: take(subject[skip:], data))


async def put(
    bus: Bus,
    bucket: str,
    key: str,
    value: bytes,
    *,
    expected: int | None,
    ttl_s: int | None = None,
    sign: bool = False,
    timeout_s: float = 10.0,
) -> int:
    """Write ``value`` and return its revision.

    ``expected`` is the revision that the key must have, 0 for "must not exist" (deleted and expired keys do not), ``None``
    for whatever there is. ``ttl_s`` is the key's life in whole seconds. ``sign``: with the signature of this process.

    :raises FencedError: the key is at another revision.
    :raises BusError: it could not be written within ``timeout_s`` seconds.
    """
    headers = bus.trust.sign(_subject(bucket, key), value) if sign else {}
    return await _write(bus, bucket, key, value, headers, expected, ttl_s, timeout_s)


async def delete(bus: Bus, bucket: str, key: str, *, expected: int | None = None, timeout_s: float = 10.0) -> None:
    """Delete a key.

    :raises FencedError: ``expected`` was given and the key is at another revision.
    :raises BusError: it could not be written within ``timeout_s`` seconds.
    """
    await _write(bus, bucket, key, b"", {_OPERATION: "DEL"}, expected, None, timeout_s)


async def _write(
    bus: Bus,
    bucket: str,
    key: str,
    value: bytes,
    headers: dict[str, str],
    expected: int | None,
    ttl_s: int | None,
    timeout_s: float,
) -> int:
    subject = _subject(bucket, key)
    message_id = secrets.token_hex(12)

    async def store(sequence: int | None) -> int:
        guard = None if sequence is None else (subject, sequence)
        ack = await bus.publish_durable(
            subject, value, message_id=message_id, headers=headers, ttl_s=ttl_s, guard=guard, timeout_s=timeout_s
        )
        return ack.sequence

    try:
        return await store(expected)
    except FencedError:
        if expected != 0:
            raise
        last = await last_message(bus, f"KV_{bucket}", subject)
        if last is None or not _absent(last):
            raise
        return await store(last.sequence)


def _subject(bucket: str, key: str) -> str:
    if not _KEY.match(key):
        raise MalformedError(f"{key[:100]!r} is not a key: tokens of A-Z a-z 0-9 - _ = / with dots between")
    return f"$KV.{bucket}.{key}"


def _absent(stored: Stored) -> bool:
    return bool(stored.marker) or stored.headers.get(_OPERATION) in _GONE


def _entry(bucket: str, stored: Stored) -> Entry:
    key = stored.subject.removeprefix(f"$KV.{bucket}.")
    return Entry(
        key=key,
        value=stored.data,
        revision=stored.sequence,
        at=stored.at,
        headers=stored.headers,
        subject=stored.subject,
    )
