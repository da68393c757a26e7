"""What subscribers are given: revocations, results and events, each to be acknowledged when it has been dealt with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from attestream.errors import MalformedError
from schemas import subjects
from schemas.base import Decoder, SchemaError
from schemas.events import Event, Result, Revocation, Standing

if TYPE_CHECKING:
    from attestream.bus.delivery import Delivery

_RESULT: Final = Decoder[Result](Result)
_EVENT: Final = Decoder[Event](Event)


class Acknowledgeable:
    """One delivered message. Under a durable name it comes again until :meth:`ack` was awaited; otherwise both calls are
    free of effect."""

    def __init__(self, delivery: Delivery, *, durable: bool) -> None:
        self._delivery = delivery
        self._durable = durable
        self.sequence = delivery.sequence
        """Position in the stream: a message that comes again has the same."""
        self.deliveries = delivery.deliveries
        """1 for the first time."""

    async def ack(self) -> None:
        """Confirm that it has been dealt with."""
        if self._durable:
            await self.settle()

    async def settle(self) -> None:
        """Take it off the server's list; for the subscription, which does so itself where there is no durable name."""
        await self._delivery.ack()

    async def retry(self, delay_s: float = 1.0) -> None:
        """Ask for it again after ``delay_s`` seconds."""
        if self._durable:
            await self._delivery.retry(delay_s)


class VerifiedRevocation(Acknowledgeable):
    """A revocation whose signature was verified with a trusted key (:func:`attestream.client.verification.revocation`)."""

    def __init__(self, delivery: Delivery, revocation: Revocation, key_id: str, *, durable: bool) -> None:
        """:raises MalformedError: when it is filed under another agent than it names."""
        super().__init__(delivery, durable=durable)
        self.revocation = revocation
        self.key_id = key_id
        """The key that signed it."""
        if subjects.revocation(revocation.agent_id) != delivery.subject:
            raise MalformedError(f"a revocation of {revocation.agent_id} came on {delivery.subject}")

    @property
    def id(self) -> str:
        """Stable: two deliveries of one revocation have the same."""
        return self.revocation.id

    @property
    def agent_id(self) -> str:
        """Whom it revokes."""
        return self.revocation.agent_id


class DeliveredResult(Acknowledgeable):
    """A change of an agent's attestation result: a new one, or the end of the last one."""

    def __init__(self, delivery: Delivery, *, durable: bool, now: int | None = None) -> None:
        """Read a result or the broker's notice that it has lapsed. ``now`` is Unix ms, by default the clock's.

        :raises MalformedError: when it can not be read, or is filed under another agent than it names.
        """
        super().__init__(delivery, durable=durable)
        try:
            self.agent_id = subjects.agent_id(delivery.subject.rpartition(".")[2])
            self.result = _RESULT.decode(delivery.data) if delivery.data else None
        except SchemaError as error:
            raise MalformedError(f"{delivery.subject} carries no attestation result: {error}") from error
        if self.result is not None and self.result.agent_id != self.agent_id:
            raise MalformedError(f"a result of {self.result.agent_id} came on {delivery.subject}")
        moment = int(time.time() * 1000) if now is None else now
        self.lapsed = self.result is None or moment >= self.result.expires_at
        """Whether the result is past its life; nothing is known of the agent then."""

    @property
    def standing(self) -> Standing:
        """What is known of the agent; ``unknown`` once the result has lapsed."""
        return self.result.standing if self.result is not None and not self.lapsed else Standing.UNKNOWN


class DeliveredEvent(Acknowledgeable):
    """A change that is on the record."""

    def __init__(self, delivery: Delivery, *, durable: bool) -> None:
        """Read an event.

        :raises MalformedError: when it can not be read, or is filed as another event than it is.
        """
        super().__init__(delivery, durable=durable)
        try:
            self.event = _EVENT.decode(delivery.data)
            filed = subjects.event(self.event.kind, self.event.agent_id)
        except SchemaError as error:
            raise MalformedError(f"{delivery.subject} carries no event: {error}") from error
        if filed != delivery.subject:
            raise MalformedError(f"an event for {filed} came on {delivery.subject}")
        self.author = ""
        """Who has signed it, as the roster names him; empty where nothing is checked."""
