"""The base of every message and its codec.

A message is a MessagePack map with a tag (``t``), a schema version (``v``) and short field names. Unknown fields are
ignored, so that a newer sender can speak to an older receiver.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

MAX_MESSAGE_BYTES: Final = 1_048_576
"""Largest message that is decoded, in bytes: the bus's own ``max_payload``."""

SHORT_NAMES: Final[dict[str, str]] = {
    "schema": "v",
    "agent_id": "a",
    "at": "at",
    "banks": "b",
    "boot_log": "bl",
    "challenge_id": "ci",
    "command_id": "cm",
    "culprit": "cu",
    "deadline": "dl",
    "enrolment": "en",
    "event_number": "n",
    "expires_at": "ex",
    "fence": "fe",
    "findings": "fi",
    "ima": "im",
    "ima_first": "if",
    "ima_from": "io",
    "issued_at": "ia",
    "known_digest": "kd",
    "message": "m",
    "nonce": "no",
    "parts": "pa",
    "pcr_values": "pv",
    "policy": "po",
    "quote": "q",
    "remedy": "re",
    "seq": "sq",
    "severity": "se",
    "signature": "sg",
    "standing": "st",
    "transport_key": "tk",
    "worker": "w",
}
"""Field name in Python -> key on the wire. A field that is absent here travels under its own name."""


class SchemaError(ValueError):
    """A message that can not be decoded: too large, not MessagePack, an unknown tag, or a field of the wrong type."""


def _short(name: str) -> str:
    return SHORT_NAMES.get(name, name)


class Part(msgspec.Struct, kw_only=True, frozen=True, rename=_short, gc=False):
    """A structure inside a message. It has no tag and no version of its own."""


class Message(msgspec.Struct, kw_only=True, frozen=True, rename=_short, tag_field="t", gc=False):
    """What is published. ``schema`` is the version of the message's shape, raised when a field changes its meaning."""

    schema: int = 1


M = TypeVar("M", bound=Message)

_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Return the MessagePack bytes of ``message``."""
    return _ENCODER.encode(message)


class Decoder(Generic[M]):
    """Decodes one message type, or a union of tagged types. Built once for each place that receives.

    :raises SchemaError: from :meth:`decode`, when the bytes are not such a message.
    """

    __slots__ = ("_decoder", "_limit")

    def __init__(self, kind: Any, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kind)
        self._limit = limit

    def decode(self, data: bytes) -> M:
        """Return the message in ``data``."""
        if len(data) > self._limit:
            raise SchemaError(f"the message has {len(data)} bytes; the limit is {self._limit}")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise SchemaError(str(error)) from error


def decode(data: bytes, kind: type[M]) -> M:
    """Return the message of type ``kind`` in ``data``. For places that are not hot; others keep a :class:`Decoder`.

    :raises SchemaError: when the bytes are not such a message.
    """
    return Decoder[M](kind).decode(data)
