"""Messages that no honest sender makes, from honest ones: for tests of everything that receives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas.base import MAX_MESSAGE_BYTES, Message, encode

DEEP: Final = 200_000
"""Levels of nesting, some hundred times what any decoder bears."""

LARGE: Final = 900_000
"""Bytes of a field that is far too large, in a message that the bus still takes."""

_HEADROOM: Final = 4096
_STRANGE: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    2**63 - 1,
    2**64 - 1,
    1.5,
    "",
    "\x00",
    "é" * 100,
    b"",
    [],
    [[]],
    {},
    {"t": {}},
)

_encoder: Final = msgspec.msgpack.Encoder()


def shapeless() -> Iterator[bytes]:
    """Yield bytes that are no message at all."""
    yield b""
    yield b"\xc1"
    yield b"\x00" * 1000
    yield b"\xff" * 100_000
    yield b"not a message"
    yield b"\x91" * DEEP + b"\xc0"
    yield b"\x81\xa1t" * DEEP + b"\xc0"
    yield b"\xdd\xff\xff\xff\xff"
    yield b"\xdf\xff\xff\xff\xff\xa1t"
    yield b"\xc6\xff\xff\xff\xff"
    yield b"\x81\xa1t\xa5\xff\xfe\xfd\xfc\xfb"
    yield _encoder.encode({"t": "no-such-message", "v": 1})
    yield _encoder.encode({"t": ["list"], "v": 1})
    yield bytes(MAX_MESSAGE_BYTES - _HEADROOM)


def disfigured(message: Message) -> Iterator[bytes]:
    """Yield ``message`` truncated, extended, and with every field missing, strange or huge."""
    data = encode(message)
    for cut in {1, len(data) // 3, len(data) // 2, len(data) - 1}:
        yield data[:cut]
    yield data + b"\xc0"
    fields: dict[str, Any] = msgspec.msgpack.decode(data)
    yield _encoder.encode(fields | {"extra": "x" * LARGE})
    yield _encoder.encode(fields)[:-1] + b"\xff"
    yield _encoder.encode(fields | {"extra": None})[:-1] + b"\x91" * DEEP + b"\xc0"
    for name in fields:
        yield _encoder.encode({key: value for key, value in fields.items() if key != name})
        for value in _STRANGE:
            if value != fields[name]:
                yield _encoder.encode(fields | {name: value})
        if isinstance(fields[name], str | bytes):
            huge: str | bytes = "x" * LARGE if isinstance(fields[name], str) else b"x" * LARGE
            yield _encoder.encode(fields | {name: huge})
            yield data.replace(_encoder.encode(fields[name]), b"\xa4\xff\xfe\xfd\xfc")
