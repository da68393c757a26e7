"""A reader of DER (ITU-T X.690) that names what is not DER instead of mending it.

Some TPM makers sign certificates that break DER in harmless, unambiguous ways, such as an unsorted SET. Such bytes are read
as they stand, and never encoded anew, so that signatures are verified over what was signed. Each breach is noted under a
name, and the caller decides. What is ambiguous, such as an indefinite length, is an error.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from attestream.errors import MalformedError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

LONG_LENGTH: Final = "length-not-minimal"
LONG_INTEGER: Final = "integer-not-minimal"
BAD_BOOLEAN: Final = "boolean-not-ff"

_MAX_LENGTH_BYTES: Final = 3
"""16 MiB: far beyond every bound on a certificate."""


class Element(NamedTuple):
    """One value: identifier octet, contents, and the whole encoding."""

    tag: int
    content: bytes
    raw: bytes


class Notes:
    """The breaches of DER that were met, each once, in the order of their first appearance."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Note the breach ``name``."""
        self._names[name] = None

    def names(self) -> tuple[str, ...]:
        """Return what was noted."""
        return tuple(self._names)


class Reader:
    """Reads consecutive values out of ``data``."""

    def __init__(self, data: bytes, notes: Notes) -> None:
        self._data = data
        self._at = 0
        self._notes = notes

    @property
    def rest(self) -> bytes:
        """What was not read yet."""
        return self._data[self._at :]

    def peek(self) -> int:
        """Return the next value's identifier octet; -1 at the end."""
        return self._data[self._at] if self._at < len(self._data) else -1

    def any(self) -> Element:
        """Return the next value.

        :raises MalformedError: when it is cut off, has a tag above 30 or an indefinite length.
        """
        data, start = self._data, self._at
        if start + 2 > len(data):
            raise MalformedError("the certificate is cut off")
        tag, length, at = data[start], data[start + 1], start + 2
        if tag & 0x1F == 0x1F:
            raise MalformedError("the certificate has a tag of more than one byte")
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= _MAX_LENGTH_BYTES or at + size > len(data):
                raise MalformedError("the certificate has an indefinite, cut off or absurd length")
            length = int.from_bytes(data[at : at + size], "big")
            if length < 0x80 or length < 1 << 8 * (size - 1):
                self._notes.add(LONG_LENGTH)
            at += size
        if at + length > len(data):
            raise MalformedError("the certificate is cut off")
        self._at = at + length
        return Element(tag, data[at : self._at], data[start : self._at])

    def take(self, tag: int) -> Element:
        """Return the next value, which must have ``tag``.

        :raises MalformedError: when it has another, or is no DER.
        """
        if self._at >= len(self._data):
            raise MalformedError("the certificate is cut off")
        if self.peek() != tag:
            raise MalformedError(f"the certificate has tag 0x{self.peek():02x} where 0x{tag:02x} belongs")
        return self.any()

    def optional(self, tag: int) -> Element | None:
        """Return the next value when it has ``tag``.

        :raises MalformedError: when it is no DER.
        """
        return self.any() if self.peek() == tag else None

    def inside(self, tag: int) -> Reader:
        """Return a reader of the contents of the next value, which must have ``tag``.

        :raises MalformedError: when it has another, or is no DER.
        """
        return Reader(self.take(tag).content, self._notes)

    def integer(self) -> int:
        """Return the next value, an INTEGER.

        :raises MalformedError: when it is none, or empty.
        """
        content = self.take(INTEGER).content
        if not content:
            raise MalformedError("the certificate has an empty integer")
        if len(content) > 1 and (content[0], content[1] >> 7) in ((0, 0), (0xFF, 1)):
            self._notes.add(LONG_INTEGER)
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """Return the next value, a BOOLEAN.

        :raises MalformedError: when it is none, or has not one byte.
        """
        content = self.take(BOOLEAN).content
        if len(content) != 1:
            raise MalformedError("the certificate has a boolean of other than one byte")
        if content[0] not in (0, 0xFF):
            self._notes.add(BAD_BOOLEAN)
        return content[0] != 0

    def oid(self) -> str:
        """Return the next value, an OBJECT IDENTIFIER, with dots.

        :raises MalformedError: when it is none, or cut off.
        """
        return oid_text(self.take(OBJECT_IDENTIFIER).content)

    def bits(self) -> tuple[bytes, int]:
        """Return the bytes of the next value, a BIT STRING, and how many bits of the last byte are not used.

        :raises MalformedError: when it is none, or says an impossible number of unused bits.
        """
        content = self.take(BIT_STRING).content
        if not content or content[0] > 7 or (content[0] and len(content) == 1):
            raise MalformedError("the certificate has a bit string that is none")
        return content[1:], content[0]

    def finish(self) -> None:
        """Check that everything was read.

        :raises MalformedError: when there is more.
        """
        if self._at != len(self._data):
            raise MalformedError(f"the certificate has {len(self._data) - self._at} unexpected bytes within a structure")


def oid_text(content: bytes) -> str:
    """Return the contents of an OBJECT IDENTIFIER with dots (X.690 section 8.19).

    :raises MalformedError: when an arc is cut off, padded or absurdly long.
    """
    if not content or len(content) > 64 or content[-1] & 0x80:
        raise MalformedError("the certificate has a broken object identifier")
    arcs: list[int] = []
    arc = 0
    fresh = True
    for byte in content:
        if fresh and byte == 0x80:
            raise MalformedError("the certificate has a padded object identifier")
        arc = arc << 7 | byte & 0x7F
        fresh = not byte & 0x80
        if fresh:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(number) for number in (first, arcs[0] - 40 * first, *arcs[1:]))
