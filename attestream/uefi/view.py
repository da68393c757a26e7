"""An event as one PCR bank sees it."""

from __future__ import annotations

from attestream.errors import MalformedError
from attestream.uefi.log import Event
from attestream.uefi.replay import BANK_IDS, HASHERS


class Measured:
    """``event`` with its digest in ``bank``.

    :raises MalformedError: when the event has no digest in that bank: then the bank's PCR says nothing about it.
    """

    __slots__ = ("digest", "event", "hasher")

    def __init__(self, event: Event, bank: str) -> None:
        self.event = event
        self.hasher = HASHERS[bank]
        algorithm = BANK_IDS[bank]
        for found, value in event.digests:
            if found == algorithm:
                self.digest = value
                return
        raise self.refusal(f"has no {bank} digest")

    def is_digest_of(self, data: bytes) -> bool:
        """Whether ``data`` is what was measured."""
        return bool(self.hasher(data).digest() == self.digest)

    def require(self, data: bytes) -> None:
        """Check that ``data`` is what was measured.

        :raises MalformedError: when it is not.
        """
        if not self.is_digest_of(data):
            raise self.refusal("carries data that is not what was measured")

    def refusal(self, what: str) -> MalformedError:
        """Return the error that says of this event ``what`` is wrong with it."""
        return MalformedError(f"event {self.event.number} of the event log, at byte {self.event.offset}, {what}")
