"""What a subscriber is given: verified, as said by whom, for this subject, and never older than the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attestream.client.deliveries import DeliveredEvent, DeliveredResult, VerifiedRevocation
from attestream.config import ROSTER_MAX_AGE_S
from attestream.errors import MalformedError, RefusedError, SignatureError
from schemas.base import Decoder, SchemaError
from schemas.events import Revocation, Signed
from schemas.roles import Role

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.bus.delivery import Delivery
    from attestream.bus.stored import Stored
    from attestream.bus.trust import Trust
    from attestream.signing import TrustedKeys
    from attestream.trust.keyring import Author
    from schemas.events import Result

_SIGNED: Final = Decoder[Signed](Signed)
_AT_ONCE: Final = 64
_log = logging.getLogger("attestream.client")


def trusted(
    *root_keys: Path | str,
    signing_key: Path | str | None = None,
    roster_file: Path | None = None,
    roster_max_age_s: int = ROSTER_MAX_AGE_S,
) -> Trust:
    """Return whom to believe: whoever the roster names that one of the root keys (PEM files) has signed.

    ``signing_key`` is the PEM file of one's own private key, for commands. ``roster_file`` keeps the newest roster.
    ``roster_max_age_s`` is for how many seconds it counts after a registrar has last vouched for it; 0: for ever. From then
    on everything but revocations is refused (:class:`attestream.errors.StaleRosterError`).

    :raises ConfigError: a key can not be read.
    """
    from attestream.bus.trust import Trust, read_roots
    from attestream.signing import Signer

    signer = Signer.load(signing_key) if signing_key is not None else None
    roots = read_roots([Path(path) for path in root_keys])
    return Trust(roots, signer, roster_file=roster_file, max_age_ms=roster_max_age_s * 1000)


def unverified() -> Trust:
    """Return the will to believe whoever reaches the bus, for tests."""
    from attestream.bus.trust import Trust

    return Trust.unsigned()


def revocations(
    trust: Trust, keys: TrustedKeys | None, *, durable: bool
) -> Callable[[Delivery], Awaitable[VerifiedRevocation]]:
    """Return what reads revocations that one of ``keys`` has signed, or without those a notifier of the roster."""

    async def read(delivery: Delivery) -> VerifiedRevocation:
        try:
            signed = _SIGNED.decode(delivery.data)
        except SchemaError as error:
            raise MalformedError(f"not a signed revocation: {error}") from error
        if keys is not None:
            revocation = keys.open(signed, Revocation)
        else:
            revocation = await trust.open(signed, Revocation, Role.NOTIFIER, delivery.at, _signed_at)
        return VerifiedRevocation(delivery, revocation, signed.key_id, durable=durable)

    return read


def results(trust: Trust, *, durable: bool) -> Callable[[Delivery], Awaitable[DeliveredResult]]:
    """Return what reads results of verifiers, each newer than the last one of its agent, and the bus's word of lapses."""
    order = Order()

    async def read(delivery: Delivery) -> DeliveredResult:
        # An end needs no signature: the bus can withhold results anyway.
        author = await trust.author_of(delivery) if delivery.data else None
        item = DeliveredResult(delivery, durable=durable)
        if author is not None and item.result is not None:
            order.check(item.result, author)
        return item

    return read


def events(trust: Trust, *, durable: bool) -> Callable[[Delivery], Awaitable[DeliveredEvent]]:
    """Return what reads events that the service has signed which may tell of them."""

    async def read(delivery: Delivery) -> DeliveredEvent:
        author = await trust.author_of(delivery)
        item = DeliveredEvent(delivery, durable=durable)
        item.author = author.name
        return item

    return read


class Order:
    """Remembers the last result of each agent, so that the bus can not show an older one after it."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def check(self, result: Result, author: Author) -> None:
        """Take ``result`` for the newest of its agent.

        A later owner of the agent has a higher fencing token: its clock may be a little behind.

        :raises SignatureError: it was signed before one that was seen.
        """
        fence, signed_at = self._last.get(result.agent_id, (0, 0))
        if author.signed_at < signed_at and result.fence <= fence:
            raise SignatureError(f"an older result of {result.agent_id} came after a newer one")
        self._last[result.agent_id] = result.fence, author.signed_at


def _signed_at(revocation: Revocation) -> int:
    return revocation.signed_at


async def believed(bus: Bus, stored: Iterable[Stored]) -> tuple[list[Stored], list[str]]:
    """Return those of the stored results or events that a verifier has signed, and the subjects of the others."""
    kept, rejected = [], []
    for count, message in enumerate(stored):
        if count % _AT_ONCE == 0:
            # Thousands take a while, in which the connection must be answered for.
            await asyncio.sleep(0)
        if message.data:
            try:
                await bus.trust.author_of(message)
            except RefusedError as error:
                _log.error("message %d on %s is rejected: %s", message.sequence, message.subject, error.message)
                rejected.append(message.subject)
                continue
        kept.append(message)
    return kept, rejected
