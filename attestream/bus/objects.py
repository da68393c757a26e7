"""Objects named by the SHA-256 of their content, in buckets that any NATS object-store client can read.

Reading goes by batched direct gets, not by a consumer: it is faster and can be resumed across a reconnect.

Whoever may store an object may also describe one that is there anew, and wrongly. The name tells which description is right,
so that one is looked for among those before.
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
_DESCRIPTIONS: Final = 32
"""Most descriptions of one object that are tried, the first ones first."""
_MOMENT_MS: Final = 60_000
_GRACE_S: Final = 600
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
        # Someone stored the same content meanwhile: theirs stands, and nothing refers to our chunks.
        _LOG.info("object %s is there already", name)
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
    try:
        found = await _described(bus, bucket, digest, stored.data)
    except (MalformedError, TooLargeError):
        if (found := await _described_before(bus, bucket, digest, stored.sequence)) is None:
            raise
    if found is None:
        found = await _described_before(bus, bucket, digest, stored.sequence)
    return found


async def _is_whole(bus: Bus, bucket: str, digest: str) -> bool:
    try:
        return await get(bus, bucket, digest) is not None
    except (MalformedError, TooLargeError):
        return False


async def _described_before(bus: Bus, bucket: str, digest: str, sequence: int) -> bytes | None:
    """Return the object by one of its descriptions before ``sequence``; ``None`` when none of them is right."""
    tried = 0
    async for stored in messages(bus, f"OBJ_{bucket}", _meta_subject(bucket, digest)):
        if stored.sequence >= sequence or tried == _DESCRIPTIONS:
            break
        tried += 1
        try:
            if (found := await _described(bus, bucket, digest, stored.data)) is not None:
                _LOG.warning("object %s was described wrongly in message %d", digest, sequence)
                return found
        except (MalformedError, TooLargeError):
            continue
    return None


async def _described(bus: Bus, bucket: str, digest: str, description: bytes) -> bytes | None:
    try:
        meta = json.loads(description)
        if meta.get("deleted"):
            return None
        nuid, size = str(meta["nuid"]), int(meta["size"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise MalformedError(f"the description of object {digest} can not be read") from error
    data = await _content(bus, bucket, nuid, size) if size else b""
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), digest):
        raise MalformedError(f"the content of object {digest} is not what its name says")
    return data


async def _content(bus: Bus, bucket: str, nuid: str, size: int) -> bytes:
    if size > MAX_OBJECT_BYTES:
        raise TooLargeError(f"an object of {size} bytes; the limit is {MAX_OBJECT_BYTES}")
    data = bytearray()
    sequence = 1
    while len(data) < size:
        request: dict[str, Any] = {"seq": sequence, "next_by_subj": f"$O.{bucket}.C.{nuid}", "batch": _BATCH}
        batch = await get_batch(bus, f"OBJ_{bucket}", request)
        if not batch.messages:
            break
        for message in batch.messages:
            data += message.data
        sequence = batch.messages[-1].sequence + 1
    return bytes(data)


def _meta_subject(bucket: str, name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
