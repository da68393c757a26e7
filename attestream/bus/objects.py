"""Objects named by the SHA-256 of their content, in buckets that any NATS object-store client can read.

Reading goes by batched direct gets, not by a consumer: it is faster and can be resumed across a reconnect.

Whoever may store an object may also describe one that is there anew, and wrongly, or put pieces behind its own. The name
tells which description is right, so that one is looked for among those before, and where the content ends.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any, Final

from attestream.bus.stored import get_batch, last_message, messages
from attestream.clock import unix_ms
from attestream.errors import FencedError, MalformedError, TooLargeError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus

MAX_OBJECT_BYTES: Final = 256 << 20
CHUNK_BYTES: Final = 131_072

_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 32
_MOMENT_MS: Final = 60_000
_GRACE_S: Final = 600
_NUID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


async def put(bus: Bus, bucket: str, data: bytes, *, ttl_s: int | None = None) -> str:
    """Store ``data`` and return its SHA-256 in hex. What is stored already is not sent again.

    ``ttl_s`` is the object's life in whole seconds; what is stored already is then sent again unless that was a moment ago.

    :raises TooLargeError: over :data:`MAX_OBJECT_BYTES`.
    :raises BusError: the bus does not take it.
    """
    if len(data) > MAX_OBJECT_BYTES:
        raise TooLargeError(f"an object of {len(data)} bytes; the limit is {MAX_OBJECT_BYTES}")
    digest = hashlib.sha256(data).digest()
    name = digest.hex()
    known = await last_message(bus, f"OBJ_{bucket}", _meta_subject(bucket, name))
    if known is not None and (await _is_whole(bus, bucket, name) if ttl_s is None else unix_ms() - known.at < _MOMENT_MS):
        return name
    nuid = secrets.token_hex(11)
    subject = f"$O.{bucket}.C.{nuid}"
    chunks = range(0, len(data), CHUNK_BYTES)
    # An object ends with its description: pieces that were gone before would look as if somebody had changed it.
    life_s = None if ttl_s is None else ttl_s + _GRACE_S
    for index, start in enumerate(chunks):
        await bus.publish_durable(subject, data[start : start + CHUNK_BYTES], message_id=f"{nuid}.{index}", ttl_s=life_s)
    meta = {
        "name": name,
        "bucket": bucket,
        "nuid": nuid,
        "size": len(data),
        "chunks": len(chunks),
        "digest": "SHA-256=" + base64.urlsafe_b64encode(digest).decode(),
        "options": {"max_chunk_size": CHUNK_BYTES},
    }
    try:
        await bus.publish_durable(
            _meta_subject(bucket, name),
            json.dumps(meta).encode(),
            message_id=f"{nuid}.meta",
            ttl_s=ttl_s,
            guard=(_meta_subject(bucket, name), known.sequence if known is not None else 0),
        )
    except FencedError:
        # Someone stored the same content meanwhile: theirs stands, and nothing refers to our chunks. Or so it seems.
        if ttl_s is None and not await _is_whole(bus, bucket, name):
            await bus.publish_durable(_meta_subject(bucket, name), json.dumps(meta).encode(), message_id=f"{nuid}.again")
    return name


async def get(bus: Bus, bucket: str, digest: str) -> bytes | None:
    """Return the object whose SHA-256 in hex is ``digest``, or ``None`` when there is none.

    :raises MalformedError: ``digest`` is none, or the content is not what its name says.
    :raises BusError: the bus does not answer.
    """
    if not _DIGEST.match(digest):
        raise MalformedError(f"{digest[:80]!r} is not a SHA-256 in hex")
    stored = await last_message(bus, f"OBJ_{bucket}", _meta_subject(bucket, digest))
    if stored is None:
        return None
    described = _place(stored.data)
    if described is not None and (found := await _content(bus, bucket, described, digest)) is not None:
        return found
    if (found := await _described_before(bus, bucket, digest, stored.sequence, {described})) is not None:
        _LOG.warning("object %s was described wrongly in message %d", digest, stored.sequence)
        return found
    if _is_deleted(stored.data):
        return None
    raise MalformedError(f"the content of object {digest} is not what its name says")


async def _is_whole(bus: Bus, bucket: str, digest: str) -> bool:
    try:
        return await get(bus, bucket, digest) is not None
    except MalformedError:
        return False


async def _described_before(bus: Bus, bucket: str, digest: str, sequence: int, tried: set[str | None]) -> bytes | None:
    """Return the object by one of its descriptions before ``sequence``; ``None`` when none of them is right. However many
    there are, what each of them names is read once: the work grows with what its author has stored, and ends."""
    async for stored in messages(bus, f"OBJ_{bucket}", _meta_subject(bucket, digest)):
        if stored.sequence >= sequence:
            break
        nuid = _place(stored.data)
        if nuid is None or nuid in tried:
            continue
        tried.add(nuid)
        if (found := await _content(bus, bucket, nuid, digest)) is not None:
            return found
    return None


def _place(description: bytes) -> str | None:
    """Return where the pieces are that a description names; ``None`` when it names none."""
    try:
        meta = json.loads(description)
        nuid = "" if meta.get("deleted") else str(meta["nuid"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return nuid if _NUID.match(nuid) else None


def _is_deleted(description: bytes) -> bool:
    try:
        return bool(json.loads(description).get("deleted"))
    except (ValueError, AttributeError, RecursionError):
        return False


async def _content(bus: Bus, bucket: str, nuid: str, digest: str) -> bytes | None:
    """Return what the pieces at ``nuid`` begin with, up to where it is the object. Others may have put more behind."""
    data, running, sequence = bytearray(), hashlib.sha256(), 1
    if hmac.compare_digest(running.hexdigest(), digest):
        return b""
    while True:
        request: dict[str, Any] = {"seq": sequence, "next_by_subj": f"$O.{bucket}.C.{nuid}", "batch": _BATCH}
        batch = await get_batch(bus, f"OBJ_{bucket}", request)
        if not batch.messages:
            return None
        for message in batch.messages:
            data += message.data
            running.update(message.data)
            if len(data) > MAX_OBJECT_BYTES:
                return None
            if hmac.compare_digest(running.copy().hexdigest(), digest):
                return bytes(data)
        sequence = batch.messages[-1].sequence + 1


def _meta_subject(bucket: str, name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
