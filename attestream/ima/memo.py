"""Remembers, across a fleet, what was worked out about log entries: machines of one image log the same lines."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from attestream.uefi.memo import EventMemo

MAX_RECORD_BYTES: Final = 1024
"""Longer records are worked out each time, so that one agent can not fill the memory."""

_Value = TypeVar("_Value")


class Generations(Generic[_Value]):
    """Bytes -> value, bounded to two generations: when the younger one is full, the older one is dropped as a whole."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[bytes, _Value] = {}
        self._old: dict[bytes, _Value] = {}

    def get(self, key: bytes) -> _Value | None:
        """Return the value of ``key``, or None when it is not remembered."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.add(key, value)
        return value

    def add(self, key: bytes, value: _Value) -> None:
        """Remember ``value``; nothing happens for a key over :data:`MAX_RECORD_BYTES`."""
        if len(key) > MAX_RECORD_BYTES:
            return
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Cleared:
    """Records that a policy allows for what they are, with what each extends. One bound for all policies together."""

    __slots__ = ("_count", "_limit", "_old", "_young", "generation")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[str, dict[bytes, bytes]] = {}
        self._old: dict[str, dict[bytes, bytes]] = {}
        self._count = 0
        self.generation = 0
        """Counts how often the younger generation became the older one: then what :meth:`known` gave is stale."""

    def known(self, scope: str) -> dict[bytes, bytes]:
        """Return the younger records of ``scope``, to look up in until :attr:`generation` changes."""
        found = self._young.get(scope)
        if found is None:
            found = self._young[scope] = {}
        return found

    def recall(self, scope: str, record: bytes) -> bytes | None:
        """Return what ``record`` extends when only the older generation knows it, and make it young again."""
        older = self._old.get(scope)
        value = older.get(record) if older is not None else None
        if value is not None:
            self.add(scope, record, value)
        return value

    def add(self, scope: str, record: bytes, value: bytes) -> None:
        """Remember that ``record`` is allowed; nothing happens for one over :data:`MAX_RECORD_BYTES`."""
        if len(record) > MAX_RECORD_BYTES:
            return
        if self._count >= self._limit:
            self._old, self._young, self._count = self._young, {}, 0
            self.generation += 1
        young = self._young.get(scope)
        if young is None:
            young = self.known(scope)
        young[record] = value
        self._count += 1

    def __len__(self) -> int:
        return sum(map(len, self._young.values())) + sum(map(len, self._old.values()))


class Memo:
    """The memo of a worker. It only saves time: results are the same without it.

    :param cleared: allowed records in one generation, of all policies; at most twice as many are held, some 350 bytes each.
    :param boot: what events of boot logs say.
    :param signatures: verdicts on file signatures in one generation; at most twice as many are held, some 150 bytes each.
    """

    __slots__ = ("boot", "cleared", "signatures")

    def __init__(self, cleared: int = 131_072, *, signatures: int = 65_536, boot: EventMemo | None = None) -> None:
        self.boot = EventMemo() if boot is None else boot
        self.cleared = Cleared(cleared)
        self.signatures: Generations[bool] = Generations(signatures)
