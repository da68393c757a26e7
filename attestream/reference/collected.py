"""Reference values on their way into a policy document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from attestream.appraisal.document import check_object
from attestream.appraisal.policy import FORMAT
from attestream.errors import TooLargeError, UnsupportedError
from attestream.ima.digests import HASHLIB_NAMES, WEAK

MAX_VALUES: Final = 4_000_000
"""Reference values of one policy."""
MAX_REMARKS: Final = 1000


class HashedFile(NamedTuple):
    """A file and its digest."""

    path: str
    """As the kernel logs it; bytes that are not UTF-8 are lone surrogates."""
    digest: str
    """``algorithm:hex``."""


def hasher(algorithm: str) -> str:
    """Return the name in :mod:`hashlib` of an algorithm of the kernel.

    :raises UnsupportedError: when it is too weak, or can not be computed here.
    """
    if algorithm not in HASHLIB_NAMES or algorithm in WEAK:
        raise UnsupportedError(
            f"files are not hashed with {algorithm[:32]!r}",
            remedy=f"Use one of {', '.join(name for name in HASHLIB_NAMES if name not in WEAK)}.",
        )
    return HASHLIB_NAMES[algorithm]


def digest_of(data: bytes, algorithm: str) -> str:
    """Return ``algorithm:hex`` of ``data``."""
    return f"{algorithm}:{hashlib.new(hasher(algorithm), data, usedforsecurity=False).hexdigest()}"


@dataclass(slots=True)
class Collected:
    """What sources told, put together."""

    digests: dict[str, dict[str, None]] = field(default_factory=dict)
    """Path -> its digests in the order in which they came."""
    keyrings: dict[str, dict[str, None]] = field(default_factory=dict)
    buffers: dict[str, dict[str, None]] = field(default_factory=dict)
    excludes: dict[str, None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What was left out and why, in words; at most :data:`MAX_REMARKS`."""
    values: int = 0

    def add(self, path: str, digest: str) -> None:
        """Add a digest of a file.

        :raises TooLargeError: when there are more than :data:`MAX_VALUES`.
        """
        self._put(self.digests, path, digest)

    def add_all(self, files: Iterable[HashedFile]) -> int:
        """Add ``files`` and return how many they are."""
        count = 0
        for path, digest in files:
            self._put(self.digests, path, digest)
            count += 1
        return count

    def add_key(self, keyring: str, digest: str) -> None:
        """Add a digest of a key that a keyring gets."""
        self._put(self.keyrings, keyring, digest)

    def add_buffer(self, name: str, digest: str) -> None:
        """Add a digest of a measured buffer."""
        self._put(self.buffers, name, digest)

    def remark(self, text: str) -> None:
        """Note that something was left out."""
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(text)

    def _put(self, table: dict[str, dict[str, None]], name: str, digest: str) -> None:
        known = table.setdefault(name, {})
        if digest not in known:
            known[digest] = None
            self.values += 1
            if self.values > MAX_VALUES:
                raise TooLargeError(f"a policy has at most {MAX_VALUES} reference values")

    def document(
        self, *, base: Mapping[str, Any] | None = None, bank: str = "sha256", description: str = ""
    ) -> dict[str, Any]:
        """Return a policy document, paths in order, on top of the parts of ``base`` when there is one.

        :raises PolicyError: when a part of ``base`` is of the wrong kind.
        """
        made: dict[str, Any] = dict(base) if base else {"format": FORMAT, "bank": bank}
        if description or not base:
            made["description"] = description
        runtime = dict(check_object(made.get("runtime", {}), "runtime"))
        runtime["digests"] = joined(runtime.get("digests", {}), self.digests, "runtime.digests")
        runtime["excludes"] = list(dict.fromkeys([*runtime.get("excludes", []), *self.excludes]))
        for name, table in (("keyrings", self.keyrings), ("buffers", self.buffers)):
            if table:
                runtime[name] = joined(runtime.get(name, {}), table, f"runtime.{name}")
        made["runtime"] = runtime
        return made


def joined(below: Any, above: Mapping[str, Iterable[str]], place: str) -> dict[str, list[str]]:
    """Return two tables of lists in one, names in order.

    :raises PolicyError: when ``below`` is not such a table.
    """
    table = check_object(below, place)
    return {name: list(dict.fromkeys([*table.get(name, ()), *above.get(name, ())])) for name in sorted({*table, *above})}
