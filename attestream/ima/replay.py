"""Replays measurements into the value that PCR 10 must have.

The log and the quote are not taken at one instant: entries may follow the position that the quote proves. That position is
the first at which the running value equals the quoted PCR. Equality at two would be a collision of the hash.
"""

from __future__ import annotations

from attestream.ima.hashing import bank_hash


class Replay:
    """A running value of PCR 10 in one bank.

    :param start: value before the first entry; empty for zeros, the value after a boot.
    :param target: the quoted value.
    """

    __slots__ = ("_hash", "proven", "seen", "target", "value")

    def __init__(self, bank: str, start: bytes, target: bytes) -> None:
        self._hash = bank_hash(bank)
        self.value: bytes = start or bytes(self._hash(b"").digest_size)
        """Running value; it stays at the quoted one when that has been reached."""
        self.target = target
        self.seen = 0
        """Entries fed in."""
        self.proven: int | None = 0 if self.value == target else None
        """Entries that the quote proves; None while it proves none."""

    def feed(self, value: bytes) -> bool:
        """Take the next entry's extended value; return whether the quote had proven an earlier position already."""
        self.seen += 1
        if self.proven is not None:
            return True
        self.value = self._hash(self.value + value).digest()
        if self.value == self.target:
            self.proven = self.seen
        return False

    @property
    def tail(self) -> int:
        """Entries behind the proven position."""
        return self.seen - (self.proven or 0)
