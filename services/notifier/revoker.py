"""Turns each failing transition of the record into one signed revocation.

The order is: revocation stored, then event acknowledged. A crash between the two repeats the revocation under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from attestream.bus.connection import Bus
from attestream.bus.consume import Consumer
from attestream.bus.delivery import Delivery
from attestream.errors import MalformedError
from attestream.signing import Signer
from attestream.telemetry import REVOCATIONS, counter
from schemas import subjects, topology
from schemas.base import Decoder, encode
from schemas.events import Event, EventKind, Revocation

DURABLE: Final = "notifier"
MAX_REVOCATION_BYTES: Final = 262_144
"""Largest revocation before it is signed. An agent's worst day must not make its revocation too large for the bus."""

_BATCH: Final = 32
# After a kill the next notifier gets what was under way this much later. A repetition while the bus is slow costs nothing:
# the revocation has the same message id.
_ACK_WAIT_S: Final = 3.0
_DECODER: Final = Decoder[Event](Event)
_log = logging.getLogger(__name__)


def revocation(event: Event, signed_at: int) -> Revocation:
    """Return the revocation that follows from a failing transition, with as many of its findings as there is room for.

    :param signed_at: Unix time in milliseconds.
    """
    whole = Revocation(
        id=event.id,
        agent_id=event.agent_id,
        at=event.at,
        signed_at=signed_at,
        standing=event.standing,
        enrolment=event.enrolment,
        policy=event.policy,
        findings=event.findings,
    )
    while whole.findings and len(encode(whole)) > MAX_REVOCATION_BYTES:
        whole = msgspec.structs.replace(whole, findings=whole.findings[: len(whole.findings) // 2])
    return whole


class Revoker:
    """Consumes failing transitions. Replicas share the work: the server gives each event to one of them."""

    def __init__(self, bus: Bus, signer: Signer, clock: Callable[[], int]) -> None:
        self._bus = bus
        self._signer = signer
        self._clock = clock
        self._counter = counter(REVOCATIONS)
        self._count = 0
        self.consumer = Consumer(
            bus,
            topology.EVENTS.name,
            DURABLE,
            self._revoke,
            filters=[f"att.event.{EventKind.FAILED}.*"],
            batch=_BATCH,
            ack_wait_s=_ACK_WAIT_S,
        )

    async def _revoke(self, delivery: Delivery) -> None:
        event = _DECODER.decode(delivery.data)
        if event.kind is not EventKind.FAILED or subjects.event(event.kind, event.agent_id) != delivery.subject:
            raise MalformedError(f"the event on {delivery.subject} is about something else")
        # Nobody is revoked on the bus's word alone.
        await self._bus.trust.author_of(delivery)
        signed = self._signer.sign(revocation(event, self._clock()))
        ack = await self._bus.publish_durable(subjects.revocation(event.agent_id), signed, message_id=f"{event.id}:rev")
        self._count += 1
        self._counter.add(1)
        _log.info(
            "revoked %s for event %s as number %d%s; %d since the start",
            event.agent_id,
            event.id,
            ack.sequence,
            " (again)" if ack.duplicate else "",
            self._count,
        )
