"""Publishing into streams: with a message id, retried until stored, and guarded against ex-owners.

A publish that timed out may still arrive, so each carries an id by which the server drops repeats. The server checks a
guard *before* it looks for repeats (2.15): a retry of a guarded message that was stored the first time looks like a refusal.
Before a retry is called fenced, the last message of its subject is therefore compared with the id.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import msgspec
import nats.errors

from attestream.bus.stored import last_message
from attestream.errors import BusError, FencedError, TooLargeError
from schemas import subjects

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

_ATTEMPT_S: Final = 2.0
_BACKOFF_S: Final = (0.02, 0.5)
_WRONG_LAST_SEQUENCE: Final = 10071
_GUARD_BUSY: Final = 10164


class Ack(msgspec.Struct, frozen=True):
    """The server's receipt."""

    sequence: int
    """In the stream."""
    duplicate: bool
    """Whether a message of this id was stored before."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_DECODER: Final = msgspec.json.Decoder(_Reply)


class Publication(msgspec.Struct, frozen=True):
    """One message on its way into a stream."""

    subject: str
    data: bytes
    headers: dict[str, str]
    message_id: str
    guard: tuple[str, int] | None
    patient: bool = False
    """Whether the receipt may take a moment longer, for less CPU."""


async def publish(bus: Bus, publication: Publication, timeout_s: float) -> Ack:
    """Store ``publication`` and return the receipt.

    :raises FencedError: the guard's subject has another last sequence.
    :raises TooLargeError: the message is larger than the server takes.
    :raises BusError: it could not be stored within ``timeout_s`` seconds, or the server refuses it for good.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    backoff = _BACKOFF_S[0]
    attempts = 0
    while True:
        left = deadline - asyncio.get_running_loop().time()
        attempts += 1
        try:
            # Publishing while disconnected would only fill the client's buffer with copies.
            await bus.connected(left)
            reply = await bus.replies.ask(
                publication.subject,
                publication.data,
                publication.headers,
                max(0.01, min(_ATTEMPT_S, left)),
                repeatable=True,
                patient=publication.patient,
            )
            answer = await _receipt(bus, publication, _DECODER.decode(reply.data), repeated=attempts > 1)
            if isinstance(answer, Ack):
                return answer
            reason = answer
        except nats.errors.MaxPayloadError as error:
            raise TooLargeError(f"a message of {len(publication.data)} bytes for {publication.subject}") from error
        except (nats.errors.Error, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        if bus.nc.is_closed or asyncio.get_running_loop().time() + backoff >= deadline:
            raise BusError(f"{publication.subject} could not be published within {timeout_s:g} s: {reason}")
        await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311 - jitter, not a secret
        backoff = min(backoff * 2, _BACKOFF_S[1])


async def _receipt(bus: Bus, publication: Publication, reply: _Reply, *, repeated: bool) -> Ack | str:
    """Return the receipt, or why the server does not take the message now but may later."""
    error = reply.error
    if error is None:
        return Ack(sequence=reply.seq, duplicate=reply.duplicate)
    if error.err_code == _WRONG_LAST_SEQUENCE and publication.guard:
        stored = await _stored_before(bus, reply.stream, publication) if repeated else None
        if stored is not None:
            return Ack(sequence=stored, duplicate=True)
        subject, sequence = publication.guard
        raise FencedError(f"{subject} is not at {sequence} any more: {error.description}")
    if error.err_code == _GUARD_BUSY or error.code >= 500:
        return error.description or "the stream is not available"
    raise BusError(f"{publication.subject} was refused: {error.description} ({error.err_code})")


async def _stored_before(bus: Bus, stream: str, publication: Publication) -> int | None:
    last = await last_message(bus, stream, publication.subject)
    if last is not None and last.headers.get(subjects.HEADER_MESSAGE_ID) == publication.message_id:
        return last.sequence
    return None
