"""Distinguished names: how they are compared and shown.

Source: RFC 5280 sections 4.1.2.4 and 7.1, ITU-T X.501.
"""

from __future__ import annotations

from typing import Final

import msgspec

from attestream.appraisal.text import printable
from attestream.errors import MalformedError
from attestream.pki.der import SEQUENCE, SET, Notes, Reader

UNSORTED: Final = "set-not-sorted"

_MAX_ATTRIBUTES: Final = 64
_SHORT: Final = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.23.133.2.1": "tpmManufacturer",
    "2.23.133.2.2": "tpmModel",
    "2.23.133.2.3": "tpmVersion",
}
_ENCODINGS: Final = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
"""String types that are compared as text: UTF8, Numeric, Printable, Teletex, IA5, Universal, BMP."""

_NO_STRING: Final = "\udc00"

Attribute = tuple[str, str]


class Name(msgspec.Struct, frozen=True):
    """A distinguished name."""

    raw: bytes
    """As encoded."""
    key: tuple[tuple[Attribute, ...], ...]
    """Two names are the same when their keys are: case, string types, runs of spaces, and the order within a SET do not
    count (RFC 5280 section 7.1)."""
    attributes: tuple[Attribute, ...]
    """Object identifier and text of each attribute, in order."""

    def text(self) -> str:
        """Return the name for people, most specific part first and safe to print."""
        parts = (f"{_SHORT.get(oid, oid)}={value}" for oid, value in reversed(self.attributes))
        return printable(", ".join(parts) or "(no name)")


def parse_name(reader: Reader, notes: Notes) -> Name:
    """Read a Name.

    :raises MalformedError: when it is none, or has too many attributes.
    """
    element = reader.take(SEQUENCE)
    rdns = Reader(element.content, notes)
    key: list[tuple[Attribute, ...]] = []
    attributes: list[Attribute] = []
    while rdns.peek() >= 0:
        found = _rdn(rdns.inside(SET), notes)
        attributes += found
        if len(attributes) > _MAX_ATTRIBUTES:
            raise MalformedError(f"a name in the certificate has more than {_MAX_ATTRIBUTES} attributes")
        key.append(tuple(sorted((oid, _fold(value)) for oid, value in found)))
    return Name(element.raw, tuple(key), tuple(attributes))


def _rdn(reader: Reader, notes: Notes) -> list[Attribute]:
    found: list[Attribute] = []
    encodings: list[bytes] = []
    while reader.peek() >= 0:
        item = reader.take(SEQUENCE)
        encodings.append(item.raw)
        inner = Reader(item.content, notes)
        oid, value = inner.oid(), inner.any()
        inner.finish()
        found.append((oid, _text(value.tag, value.content)))
    if not found:
        raise MalformedError("a name in the certificate has an empty part")
    if encodings != sorted(encodings):
        notes.add(UNSORTED)
    return found


def _text(tag: int, content: bytes) -> str:
    """Return a string's text; the hexadecimal digits of what is no string, behind a code point that no string has."""
    encoding = _ENCODINGS.get(tag)
    try:
        if encoding:
            return content.decode(encoding)
    except UnicodeDecodeError:
        encoding = None
    return f"{_NO_STRING}{tag:02x}{content.hex()}"


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
