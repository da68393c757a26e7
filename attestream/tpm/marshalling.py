"""Reading and writing of big-endian TPM structures with every length checked."""

from __future__ import annotations

from attestream.errors import MalformedError, TooLargeError


class Reader:
    """Reads ``data`` from its beginning. ``what`` names the structure in errors.

    :raises MalformedError: from each reading method, when the data ends too early.
    """

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise MalformedError(f"{self._what} ends at byte {len(self._data)}; at least {end} are needed")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, size: int) -> int:
        """Return the unsigned integer in the next ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        """Return the buffer of a TPM2B: a 16-bit length and that many bytes.

        :raises TooLargeError: when the length is over ``limit``.
        """
        size = self.number(2)
        if size > limit:
            raise TooLargeError(f"a field of {self._what} has {size} bytes; the limit is {limit}")
        return self.take(size)

    def finish(self) -> None:
        """Check that nothing is left over.

        :raises MalformedError: when there are trailing bytes.
        """
        left = len(self._data) - self._at
        if left:
            raise MalformedError(f"{self._what} is followed by {left} bytes that do not belong to it")


def sized(data: bytes) -> bytes:
    """Return ``data`` as a TPM2B.

    :raises TooLargeError: when it has more than 65,535 bytes.
    """
    if len(data) > 0xFFFF:
        raise TooLargeError(f"a TPM2B holds at most 65535 bytes, not {len(data)}")
    return len(data).to_bytes(2, "big") + data
