"""Remembers parsed entries across a fleet: machines of one image log the same lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from attestream.ima.log import Entry

MAX_RECORD_BYTES: Final = 1024
"""Longer records are parsed each time, so that one agent can not fill the memory."""


class BankMemo:
    """Record bytes -> entry, for one PCR bank. Bounded to two generations: the older one is dropped as a whole."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[bytes, Entry] = {}
        self._old: dict[bytes, Entry] = {}

    def get(self, record: bytes) -> Entry | None:
        """Return the entry of ``record``, or None when it is not remembered."""
        entry = self._young.get(record)
        if entry is None and (entry := self._old.get(record)) is not None:
            self.add(record, entry)
        return entry

    def add(self, record: bytes, entry: Entry) -> None:
        """Remember ``entry``."""
        if len(record) > MAX_RECORD_BYTES:
            return
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
        self._young[record] = entry

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Memo:
    """The memo of a worker. It only saves time: results are the same without it.

    :param limit: entries in one generation of one bank; at most twice as many are held.
    """

    __slots__ = ("_banks", "_limit")

    def __init__(self, limit: int = 16_384) -> None:
        self._limit = limit
        self._banks: dict[str, BankMemo] = {}

    def of(self, bank: str) -> BankMemo:
        """Return the memo for entries as they extend ``bank``."""
        memo = self._banks.get(bank)
        if memo is None:
            memo = self._banks[bank] = BankMemo(self._limit)
        return memo
